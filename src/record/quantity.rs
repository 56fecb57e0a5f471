//! Kubernetes quantities, the two kinds that a job asks for: CPU in thousandths of a core, memory and disk in bytes.
//!
//! Source of the notation: <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.

use super::text;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Thousandths of a core: `500m`, `2`, `1.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MilliCpu(pub u64);

/// Bytes: `512Mi`, `8Gi`, `1G`, `1073741824`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// Why a text is no quantity.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a quantity; write {example}")]
pub struct BadQuantity {
    text: String,
    example: &'static str,
}

const BYTE_UNITS: [(&str, u64); 10] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
];

/// `1.5` times `unit`, exactly where it is exact, rounded up elsewhere; `None` if it is no plain decimal or too large.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let value = format!("{whole}{fraction}").parse::<u128>().ok()?;
    u64::try_from(value.checked_mul(u128::from(unit))?.div_ceil(scale)).ok()
}

/// Less than this nobody means.
const LEAST: u64 = 1 << 20;

impl Bytes {
    /// Why so few are a mistake, where they are a limit of memory or disk: a unit was forgotten.
    pub fn too_few(self) -> Option<String> {
        (self.0 < LEAST)
            .then(|| format!("{self} is {} bytes, less than 1Mi; write it with its unit, as \"8Gi\"", self.0))
    }
}

impl FromStr for MilliCpu {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (number, unit) = text.strip_suffix('m').map_or((text, 1000), |number| (number, 1));
        scaled(number, unit).map(Self).ok_or_else(|| BadQuantity { text: text.into(), example: "CPU as 500m or 2" })
    }
}

impl FromStr for Bytes {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let unit = BYTE_UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)));
        let (number, unit) = unit.unwrap_or((text, 1));
        scaled(number, unit)
            .map(Self)
            .ok_or_else(|| BadQuantity { text: text.into(), example: "bytes as 512Mi or 8Gi" })
    }
}

impl fmt::Display for MilliCpu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(out, "{}", self.0 / 1000) } else { write!(out, "{}m", self.0) }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary = BYTE_UNITS.iter().take(5).rev().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        match binary {
            Some((name, unit)) => write!(out, "{}{name}", self.0 / unit),
            None => write!(out, "{}", self.0),
        }
    }
}

macro_rules! as_text {
    ($name:ident, $example:literal) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                text::read(input, $example)
            }
        }
    };
}
as_text!(MilliCpu, "CPU in quotes: \"500m\", \"2\"");
as_text!(Bytes, "bytes in quotes: \"512Mi\", \"8Gi\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_reads() {
        assert_eq!("500m".parse::<MilliCpu>().unwrap(), MilliCpu(500));
        assert_eq!("1.5".parse::<MilliCpu>().unwrap(), MilliCpu(1500));
        assert_eq!("512Mi".parse::<Bytes>().unwrap(), Bytes(512 << 20));
        assert_eq!("1.5Gi".parse::<Bytes>().unwrap(), Bytes(3 << 29));
        assert_eq!("1M".parse::<Bytes>().unwrap(), Bytes(1_000_000));
    }

    #[test]
    fn refuses_the_rest_with_an_example() {
        for text in ["", "-1", "1 Gi", "Gi", "1e3", "99999999999999999999Pi", "0x10", "１"] {
            let error = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.contains("512Mi"), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_it_writes_it_reads(bytes: u64, cpu: u64) {
            proptest::prop_assert_eq!(Bytes(bytes).to_string().parse::<Bytes>().unwrap(), Bytes(bytes));
            let cpu = cpu / 1000;
            proptest::prop_assert_eq!(MilliCpu(cpu).to_string().parse::<MilliCpu>().unwrap(), MilliCpu(cpu));
        }
    }
}
