//! One statement for many rows: a job's share of a round trip is what a spike of ten thousand is paid in.

use std::sync::LazyLock;

/// The most rows of one statement.
pub const PIECE: usize = 64;
/// Rows of one statement, the most first. Three texts for any number keep the databases' caches of prepared statements small.
const SIZES: [usize; 3] = [PIECE, 8, 1];

/// A statement for each of [`SIZES`].
pub struct Batch([&'static str; 3]);

impl Batch {
    /// `rows` stands once in the text for `row` repeated, with `between` in between.
    pub fn new(text: &str, row: &str, between: &str) -> Self {
        let of = |size| text.replace("{rows}", &vec![row; size].join(between));
        // Never given back: statements live as long as the program.
        Self(SIZES.map(|size| &*String::leak(of(size))))
    }

    /// Both texts one behind the other, for the same rows.
    pub fn followed_by(self, next: &Self) -> Self {
        let [most, some, one] = self.0;
        let [next_most, next_some, next_one] = next.0;
        Self(
            [(most, next_most), (some, next_some), (one, next_one)]
                .map(|(text, next)| &*String::leak(format!("{text}{next}"))),
        )
    }

    /// The pieces of `items` with their statements.
    pub fn pieces<'a, T>(&self, mut items: &'a [T]) -> Vec<(&'static str, &'a [T])> {
        let mut pieces = Vec::new();
        for (size, statement) in SIZES.into_iter().zip(self.0) {
            while items.len() >= size {
                let (piece, rest) = items.split_at(size);
                pieces.push((statement, piece));
                items = rest;
            }
        }
        pieces
    }
}

/// Made at its first use.
pub type LazyBatch = LazyLock<Batch>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece_and_each_piece_has_its_places() {
        let batch = Batch::new("IN ({rows})", "?", ", ");
        let items: Vec<u32> = (0..203).collect();
        let pieces = batch.pieces(&items);
        assert_eq!(pieces.iter().map(|(_, piece)| piece.len()).collect::<Vec<_>>(), [64, 64, 64, 8, 1, 1, 1]);
        assert_eq!(pieces.concat_items(), items);
        assert!(pieces.iter().all(|(statement, piece)| statement.matches('?').count() == piece.len()));
    }

    trait Concat<T> {
        fn concat_items(&self) -> Vec<T>;
    }

    impl<T: Clone> Concat<T> for Vec<(&'static str, &[T])> {
        fn concat_items(&self) -> Vec<T> {
            self.iter().flat_map(|(_, piece)| piece.iter().cloned()).collect()
        }
    }
}
