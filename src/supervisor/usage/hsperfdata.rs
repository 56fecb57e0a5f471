//! The format of a JVM's performance data, version 2.0: one prologue, then named numbers and strings.
//!
//! Source: HotSpot's `perfMemory.hpp` (`PerfDataPrologue`, `PerfDataEntry`) and the `sun.gc.*` counters of its collectors. The
//! transfer owns the file and may write anything into it: whatever does not fit is passed over. `jvm` finds and opens the file.

use crate::record::usage::Jvm;

const MAGIC: u32 = 0xcafe_c0c0;
const MAJOR_VERSION: u8 = 2;
const ENTRY_HEADER: usize = 20;
/// `PerfData`'s types, by their letters in class files.
const LONG: u8 = b'J';
const BYTE: u8 = b'B';
/// G1 tells a few bytes more for each generation, so that nobody divides by zero (`pad_capacity`); heaps come in whole pages.
const PAD: u64 = 1024;

/// What the JVM tells of its heap and its collectors; nothing if this is no such file.
pub fn read(bytes: &[u8]) -> Option<Jvm> {
    let little_endian = match bytes.get(4)? {
        0 => false,
        1 => true,
        _ => return None,
    };
    let magic = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let accessible = *bytes.get(7)? != 0;
    if magic != MAGIC || *bytes.get(5)? != MAJOR_VERSION || !accessible {
        return None;
    }
    let file = Fields { bytes, little_endian };
    let (mut at, entries) = (file.size(24)?, file.size(28)?);
    let mut counters = Counters::default();
    for _ in 0..entries {
        // An entry is counted before it is written: an empty one is the end.
        let length = file.size(at).filter(|length| *length >= ENTRY_HEADER);
        let Some(end) = length.and_then(|length| at.checked_add(length)) else { break };
        let Some(entry) = bytes.get(at..end) else { break };
        counters.take(&Fields { bytes: entry, little_endian });
        at = end;
    }
    Some(counters.reading())
}

/// Integers in the file's byte order.
struct Fields<'a> {
    bytes: &'a [u8],
    little_endian: bool,
}

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at.checked_add(N)?)?.try_into().ok()
    }

    /// A length or an offset: 32 bits, signed.
    fn size(&self, at: usize) -> Option<usize> {
        let bytes = self.array(at)?;
        let number = if self.little_endian { i32::from_le_bytes(bytes) } else { i32::from_be_bytes(bytes) };
        usize::try_from(number).ok()
    }

    /// A counter: 64 bits, signed, and never negative.
    fn long(&self, at: usize) -> Option<u64> {
        let bytes = self.array(at)?;
        let number = if self.little_endian { i64::from_le_bytes(bytes) } else { i64::from_be_bytes(bytes) };
        u64::try_from(number).ok()
    }

    /// Up to the first NUL.
    fn text(&self, at: usize) -> Option<&str> {
        let text = self.bytes.get(at..)?.split(|byte| *byte == 0).next()?;
        std::str::from_utf8(text).ok()
    }
}

#[derive(Default)]
struct Counters {
    used: Option<u64>,
    committed: Option<u64>,
    /// Of all generations together, and of the largest.
    max: Option<u64>,
    largest_max: Option<u64>,
    collections: Option<u64>,
    ticks: Option<u64>,
    ticks_per_second: Option<u64>,
    is_g1: bool,
}

impl Counters {
    fn take(&mut self, entry: &Fields) -> Option<()> {
        let name = entry.text(entry.size(4)?)?;
        let (is_vector, data) = (entry.size(8)? > 0, entry.size(16)?);
        let kind = *entry.bytes.get(12)?;
        if kind == BYTE && name == "sun.gc.policy.name" {
            self.is_g1 = entry.text(data)? == "GarbageFirst";
        }
        if kind != LONG || is_vector {
            return None;
        }
        let value = entry.long(data)?;
        if name == "sun.os.hrt.frequency" {
            self.ticks_per_second = Some(value);
        }
        let parts: Vec<&str> = name.strip_prefix("sun.gc.")?.splitn(6, '.').collect();
        match parts.as_slice() {
            ["generation", _, "space", _, "used"] => add(&mut self.used, value),
            ["generation", _, "capacity"] => add(&mut self.committed, value - value % PAD),
            ["generation", _, "maxCapacity"] => {
                let value = value - value % PAD;
                add(&mut self.max, value);
                self.largest_max = self.largest_max.max(Some(value));
            }
            ["collector", _, "invocations"] => add(&mut self.collections, value),
            ["collector", _, "time"] => add(&mut self.ticks, value),
            _ => {}
        }
        Some(())
    }

    fn reading(self) -> Jvm {
        let ticks_per_second = self.ticks_per_second.filter(|ticks| *ticks > 0);
        Jvm {
            jvm_heap_used_bytes: self.used,
            jvm_heap_committed_bytes: self.committed,
            // Each of G1's generations may become the whole heap.
            jvm_heap_max_bytes: if self.is_g1 { self.largest_max } else { self.max },
            jvm_gc_count: self.collections,
            jvm_gc_seconds: self.ticks.zip(ticks_per_second).map(|(ticks, per_second)| seconds(ticks, per_second)),
        }
    }
}

fn add(sum: &mut Option<u64>, value: u64) {
    *sum = Some(sum.unwrap_or(0).saturating_add(value));
}

#[allow(clippy::cast_precision_loss)] // 2^53 ns are 104 days of collecting
fn seconds(ticks: u64, per_second: u64) -> f64 {
    ticks as f64 / per_second as f64
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    use Value::{Long, Text};

    enum Value {
        Long(i64),
        Text(&'static str),
    }

    /// A file as a JVM writes it.
    fn file(little_endian: bool, entries: &[(&str, Value)]) -> Vec<u8> {
        let int = |number: usize| {
            let number = i32::try_from(number).unwrap();
            if little_endian { number.to_le_bytes() } else { number.to_be_bytes() }
        };
        let mut file = MAGIC.to_be_bytes().to_vec();
        file.extend([u8::from(little_endian), 2, 0, 1]);
        file.extend([0; 16]);
        file.extend([int(32), int(entries.len())].concat());
        for (name, value) in entries {
            let (kind, vector, data) = match value {
                Long(number) if little_endian => (LONG, 0, number.to_le_bytes().to_vec()),
                Long(number) => (LONG, 0, number.to_be_bytes().to_vec()),
                Text(text) => (BYTE, text.len() + 1, [text.as_bytes(), &[0]].concat()),
            };
            let data_at = (ENTRY_HEADER + name.len() + 1).next_multiple_of(8);
            let length = (data_at + data.len()).next_multiple_of(8);
            let mut entry = [int(length), int(ENTRY_HEADER), int(vector), [kind, 0, 0, 0], int(data_at)].concat();
            entry.extend(name.as_bytes());
            entry.resize(data_at, 0);
            entry.extend(data);
            entry.resize(length, 0);
            file.extend(entry);
        }
        file.resize(32 * 1024, 0);
        file
    }

    /// What Serial tells on JDK 17 with `-Xmx200m`.
    pub fn serial(little_endian: bool) -> Vec<u8> {
        let entries = [
            ("sun.gc.policy.name", Text("Copy:MSC")),
            ("sun.gc.generation.0.maxCapacity", Long(69_861_376)),
            ("sun.gc.generation.0.capacity", Long(69_861_376)),
            ("sun.gc.collector.0.invocations", Long(9)),
            ("sun.gc.collector.0.time", Long(16_154_354)),
            ("sun.gc.generation.0.space.0.capacity", Long(55_967_744)),
            ("sun.gc.generation.0.space.0.used", Long(21_828_392)),
            ("sun.gc.generation.0.space.2.used", Long(5_243_200)),
            ("sun.gc.generation.1.maxCapacity", Long(139_853_824)),
            ("sun.gc.generation.1.capacity", Long(139_853_824)),
            ("sun.gc.collector.1.invocations", Long(1)),
            ("sun.gc.collector.1.time", Long(1_476_127)),
            ("sun.gc.generation.1.space.0.used", Long(459_632)),
            ("sun.os.hrt.frequency", Long(1_000_000_000)),
        ];
        file(little_endian, &entries)
    }

    #[test]
    fn serial_is_read_in_both_byte_orders() {
        for little_endian in [true, false] {
            let read = read(&serial(little_endian)).unwrap();
            assert_eq!(read.jvm_heap_used_bytes, Some(27_531_224));
            assert_eq!((read.jvm_heap_committed_bytes, read.jvm_heap_max_bytes), (Some(200 << 20), Some(200 << 20)));
            assert_eq!((read.jvm_gc_count, read.jvm_gc_seconds), (Some(10), Some(0.017_630_481)));
        }
    }

    #[test]
    fn each_of_g1s_generations_may_become_the_heap() {
        let entries = [
            ("sun.gc.policy.name", Text("GarbageFirst")),
            ("sun.gc.generation.1.maxCapacity", Long(209_715_208)),
            ("sun.gc.generation.1.capacity", Long(63_963_144)),
            ("sun.gc.generation.0.maxCapacity", Long(209_715_224)),
            ("sun.gc.generation.0.capacity", Long(109_051_928)),
        ];
        let read = read(&file(true, &entries)).unwrap();
        let (committed, max) = (read.jvm_heap_committed_bytes, read.jvm_heap_max_bytes);
        assert_eq!((committed, max), (Some(165 << 20), Some(200 << 20)));
    }

    #[test]
    fn what_a_starting_jvm_has_not_told_is_absent() {
        let mut started =
            file(true, &[("sun.gc.collector.0.time", Long(5)), ("sun.gc.collector.0.invocations", Long(-1))]);
        started[28] = 9; // counted, not yet written
        assert_eq!(read(&started), Some(Jvm::default()));
        started[7] = 0;
        assert_eq!(read(&started), None);
        assert_eq!(read(b""), None);
    }

    proptest! {
        #[test]
        fn nothing_in_the_file_harms_us(bytes in proptest::collection::vec(any::<u8>(), 0..200), spots in proptest::collection::vec((0_usize..1000, any::<u8>()), 0..20)) {
            read(&bytes);
            let mut file = serial(true);
            spots.into_iter().for_each(|(at, byte)| file[at] = byte);
            read(&file);
            read(&file[..bytes.len() * 10]);
            file[32..32 + bytes.len()].copy_from_slice(&bytes);
            read(&file);
        }
    }
}
