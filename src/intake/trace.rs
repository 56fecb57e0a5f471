//! Trace context as it comes along with a job: W3C's, or what AWS writes. Pure.

/// `version-trace-parent-flags` (<https://www.w3.org/TR/trace-context/#traceparent-header-field-values>) if it is one. Whatever else
/// stands there is ignored, as the standard asks.
pub fn traceparent(text: &str) -> Option<String> {
    let text = text.trim();
    let fields: Vec<&str> = text.split('-').collect();
    let [version, trace, parent, flags, rest @ ..] = fields.as_slice() else { return None };
    let lower_hex = |field: &str, length| {
        field.len() == length && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    let shaped = lower_hex(version, 2) && lower_hex(trace, 32) && lower_hex(parent, 16) && lower_hex(flags, 2);
    // A later version may have more behind; this one has not.
    let known = *version != "ff" && (*version != "00" || rest.is_empty());
    (shaped && known && !is_zero(trace) && !is_zero(parent)).then(|| format!("{version}-{trace}-{parent}-{flags}"))
}

/// The same from `AWSTraceHeader`, `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`
/// (<https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>).
pub fn from_aws(header: &str) -> Option<String> {
    let field = |name: &str| header.split(';').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
    let (version, trace) = field("Root")?.split_once('-')?;
    let sampled = if field("Sampled") == Some("1") { "01" } else { "00" };
    (version == "1").then(|| traceparent(&format!("00-{}-{}-{sampled}", trace.replace('-', ""), field("Parent")?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01";

    #[test]
    fn a_traceparent_passes_and_nothing_else_does() {
        assert_eq!(traceparent(TRACE).as_deref(), Some(TRACE));
        assert_eq!(traceparent(&format!("cc{}-more", &TRACE[2..])), Some(format!("cc{}", &TRACE[2..])));
        let zero = TRACE.replace("53995c3f42cd8ad8", "0000000000000000");
        for other in [
            "",
            "00-1-2-01",
            &TRACE.to_uppercase(),
            &TRACE[..54],
            &format!("{TRACE}-x"),
            &format!("ff{}", &TRACE[2..]),
            &zero,
        ] {
            assert_eq!(traceparent(other), None, "{other}");
        }
    }

    #[test]
    fn aws_writes_the_same_in_its_own_way() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        assert_eq!(from_aws(header).as_deref(), Some(TRACE));
        assert_eq!(from_aws(&header.replace("Sampled=1", "Sampled=0")), Some(format!("{}00", &TRACE[..53])));
        for other in [
            "",
            "Root=1-5759e988-bd862e3fe1be46a994272793",
            "Root=2-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8",
        ] {
            assert_eq!(from_aws(other), None, "{other}");
        }
    }
}
