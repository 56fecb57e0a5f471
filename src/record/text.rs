//! Values that people write as text: where something else stands in their place, the error says how they are written.

use serde::{Deserializer, de};
use std::{fmt, marker::PhantomData, str::FromStr};

/// Reads the text; `example` follows "expected".
pub fn read<'de, T, D>(input: D, example: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    input.deserialize_str(Text { example, value: PhantomData })
}

struct Text<T> {
    example: &'static str,
    value: PhantomData<T>,
}

impl<T: FromStr<Err: fmt::Display>> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.example)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}
