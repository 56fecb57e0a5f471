//! What the supervisor is told: flag, else `SENDO_…` variable, else default. All of it is checked before anything starts.

use super::user::{self, User};
use crate::record::{
    job::{Fencing, OnTerm},
    span::Span,
    wire::AttemptId,
};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::PathBuf,
    time::Duration,
};

const GRANT_WAIT: Duration = Duration::from_secs(600);
const LINGER: Duration = Duration::from_secs(600);
const HEARTBEAT: Duration = Duration::from_secs(10);
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(100);
const TERMINATION_LOG: &str = "/dev/termination-log";
const PASSWD: &str = "/etc/passwd";
const SECRETS_DIR: &str = "/run/sendo/secrets";

/// Every setting: its flag, the value's shape, and what it is for. The variable's name is the flag's, in capitals, behind `SENDO_`.
const SETTINGS: [(&str, &str, &str); 18] = [
    ("job", "ID", "the job; without it this is a plain init: --grace, --relay and --user apply"),
    ("attempt", "N", "the attempt, counted from 1"),
    ("ledger-url", "URL", "http:// or https:// address of the ledger"),
    ("token-file", "FILE", "the attempt's token, read again at each request"),
    ("ca-file", "FILE", "certificates (PEM) to trust in place of the system's"),
    ("grace", "SPAN", "after the first SIGTERM, all is over by then (default: the deadline; plain init: no limit)"),
    ("grant-wait", "SPAN", "how long to ask for leave to start (default 10m)"),
    ("linger", "SPAN", "how long to stay for the last report's receipt (default 10m)"),
    ("heartbeat", "SPAN", "how often to read the use of resources (default 10s)"),
    ("on-term", "finish|stop", "at SIGTERM let the transfer go on within the grace, or stop it (default finish)"),
    ("deadline", "SPAN", "how long the transfer may run (default: no limit)"),
    ("stall-after", "SPAN", "stop it after so long without output, disk I/O and CPU (default: never)"),
    (
        "fencing",
        "patient|strict",
        "patient: a granted transfer runs through any outage of the ledger; strict: it is killed before its lease ends (default patient)",
    ),
    ("termination-log", "FILE", "where the last word is left (default /dev/termination-log)"),
    ("relay", "on|off", "read the transfer's output on its way (default on with a job)"),
    (
        "user",
        "NAME|UID[:GID]",
        "whom the command runs as, where we are root with CAP_KILL, CAP_SETGID and CAP_SETUID (default: our own user)",
    ),
    (
        "work-dir",
        "DIR",
        "private folder for the rendered configuration (default: the system's folder for temporary files)",
    ),
    ("secrets-dir", "DIR", "one file a secret (default /run/sendo/secrets)"),
];

/// Why the supervisor did not start: bad usage, exit code 64.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("{name}: {why}")]
    Value { name: String, why: String },
    #[error("{0}")]
    Usage(String),
    #[error("nothing to run; usage: sendo-supervisor [flags] -- command args…")]
    NoCommand,
}

/// What was asked of us.
#[derive(Debug)]
pub enum Asked {
    Help(String),
    Version,
    Run(Box<Config>),
}

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    pub command: Vec<OsString>,
    pub grace: Option<Duration>,
    pub relay: bool,
    /// `None`: the command runs as we do.
    pub user: Option<User>,
    /// `None`: a plain init.
    pub job: Option<JobConfig>,
}

/// What only a supervisor with a job needs.
#[derive(Debug, Clone)]
pub struct JobConfig {
    pub id: AttemptId,
    pub ledger_url: reqwest::Url,
    pub token_file: PathBuf,
    pub ca_file: Option<PathBuf>,
    pub grant_wait: Duration,
    pub linger: Duration,
    pub heartbeat: Duration,
    pub on_term: OnTerm,
    pub deadline: Option<Duration>,
    pub stall_after: Option<Duration>,
    pub fencing: Fencing,
    pub termination_log: PathBuf,
    pub work_dir: PathBuf,
    pub secrets_dir: PathBuf,
}

/// A setting's text with the name that it came under.
type Raw = BTreeMap<&'static str, (String, String)>;

/// Reads flags and variables.
pub fn read(
    args: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Asked, Problem> {
    let mut raw = from_env(env)?;
    let mut command = Vec::new();
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(argument) = parser.next().map_err(|why| Problem::Usage(why.to_string()))? {
        match argument {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Asked::Help(help())),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => return Ok(Asked::Version),
            lexopt::Arg::Long(flag) => {
                let Some((name, _, _)) = SETTINGS.iter().find(|(name, _, _)| *name == flag) else {
                    return Err(Problem::Usage(format!("unknown flag --{flag}; see sendo-supervisor --help")));
                };
                let value = parser.value().map_err(|why| Problem::Usage(why.to_string()))?;
                raw.insert(name, (format!("--{name}"), text(&format!("--{name}"), &value)?));
            }
            lexopt::Arg::Value(first) => {
                command.push(first);
                command.extend(parser.raw_args().map_err(|why| Problem::Usage(why.to_string()))?);
            }
            lexopt::Arg::Short(flag) => {
                return Err(Problem::Usage(format!("unknown flag -{flag}; see sendo-supervisor --help")));
            }
        }
    }
    if command.is_empty() {
        return Err(Problem::NoCommand);
    }
    Ok(Asked::Run(Box::new(check(&raw, command)?)))
}

fn from_env(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Raw, Problem> {
    let mut raw = Raw::new();
    for (key, value) in env {
        for (name, _, _) in SETTINGS {
            let variable = variable(name);
            if key == OsStr::new(&variable) {
                raw.insert(name, (variable.clone(), text(&variable, &value)?));
            }
        }
    }
    Ok(raw)
}

fn variable(name: &str) -> String {
    format!("SENDO_{}", name.to_ascii_uppercase().replace('-', "_"))
}

fn text(name: &str, value: &OsStr) -> Result<String, Problem> {
    let text = value.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::Value { name: name.into(), why: "is not UTF-8".into() })
}

fn check(raw: &Raw, command: Vec<OsString>) -> Result<Config, Problem> {
    let job = if raw.contains_key("job") { Some(job(raw)?) } else { None };
    Ok(Config {
        command,
        grace: span(raw, "grace")?,
        relay: word(raw, "relay", &[("on", true), ("off", false)])?.unwrap_or(job.is_some()),
        user: user(raw)?,
        job,
    })
}

fn job(raw: &Raw) -> Result<JobConfig, Problem> {
    let required = |name: &'static str| {
        let needed = || Problem::Usage(format!("--job needs --{name} (or {})", variable(name)));
        raw.get(name).map(|(_, text)| text.as_str()).ok_or_else(needed)
    };
    let path = |name, default: PathBuf| raw.get(name).map_or(default, |(_, text)| PathBuf::from(text));
    let id = AttemptId { job: required("job")?.to_owned(), attempt: parsed(raw, "attempt", required("attempt")?)? };
    let ledger_url: reqwest::Url = parsed(raw, "ledger-url", required("ledger-url")?)?;
    if !matches!(ledger_url.scheme(), "http" | "https") || ledger_url.cannot_be_a_base() {
        return Err(wrong(raw, "ledger-url", "must begin with http:// or https://"));
    }
    let heartbeat = span(raw, "heartbeat")?.unwrap_or(HEARTBEAT);
    if heartbeat < SHORTEST_HEARTBEAT {
        return Err(wrong(raw, "heartbeat", "must be at least 100ms"));
    }
    Ok(JobConfig {
        id,
        ledger_url,
        token_file: required("token-file")?.into(),
        ca_file: raw.get("ca-file").map(|(_, text)| text.into()),
        grant_wait: span(raw, "grant-wait")?.unwrap_or(GRANT_WAIT),
        linger: span(raw, "linger")?.unwrap_or(LINGER),
        heartbeat,
        on_term: word(raw, "on-term", &[("finish", OnTerm::Finish), ("stop", OnTerm::Stop)])?.unwrap_or_default(),
        deadline: span(raw, "deadline")?,
        stall_after: span(raw, "stall-after")?,
        fencing: word(raw, "fencing", &[("patient", Fencing::Patient), ("strict", Fencing::Strict)])?
            .unwrap_or_default(),
        termination_log: path("termination-log", TERMINATION_LOG.into()),
        work_dir: path("work-dir", std::env::temp_dir()),
        secrets_dir: path("secrets-dir", SECRETS_DIR.into()),
    })
}

fn user(raw: &Raw) -> Result<Option<User>, Problem> {
    let Some((_, text)) = raw.get("user") else { return Ok(None) };
    let user = User::find(text, PASSWD.as_ref()).map_err(|why| wrong(raw, "user", &why.to_string()))?;
    let ours = User { uid: nix::unistd::getuid().as_raw(), gid: nix::unistd::getgid().as_raw() };
    if ours.uid != 0 && user != ours {
        return Err(wrong(
            raw,
            "user",
            &format!("only root can run a command as somebody else, and we are {}", ours.uid),
        ));
    }
    if let Some(capability) = user::lacking().filter(|_| user != ours) {
        // Without CAP_KILL it would run, and never hear that it is to end.
        let why = format!("root lacks {capability} here, and cannot run a command as somebody else and end it again");
        return Err(wrong(raw, "user", &why));
    }
    Ok(Some(user).filter(|user| *user != ours))
}

fn wrong(raw: &Raw, name: &'static str, why: &str) -> Problem {
    let given = raw.get(name).map_or_else(|| format!("--{name}"), |(given, _)| given.clone());
    Problem::Value { name: given, why: why.into() }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    raw: &Raw,
    name: &'static str,
    text: &str,
) -> Result<T, Problem> {
    text.parse().map_err(|why: T::Err| wrong(raw, name, &format!("`{text}`: {why}")))
}

fn span(raw: &Raw, name: &'static str) -> Result<Option<Duration>, Problem> {
    let Some((_, text)) = raw.get(name) else { return Ok(None) };
    text.parse::<Span>().map(|span| Some(span.0)).map_err(|why| wrong(raw, name, &why.to_string()))
}

fn word<T: Copy>(raw: &Raw, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some((_, text)) = raw.get(name) else { return Ok(None) };
    let found = words.iter().find(|(word, _)| word == text).map(|(_, value)| Some(*value));
    let allowed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
    found.ok_or_else(|| wrong(raw, name, &format!("`{text}` is not {}", allowed())))
}

fn help() -> String {
    let mut help = String::from(
        "Runs one command as PID 1 of a container: reaps, forwards signals, and with a job reports to Sendo's ledger.\n\n",
    );
    help.push_str("usage: sendo-supervisor [flags] -- command args…\n\n");
    for (name, shape, what) in SETTINGS {
        help.push_str(&format!("  --{:<28} {what}\n", format!("{name} {shape}")));
    }
    help.push_str("\nEach flag --some-name has a variable SENDO_SOME_NAME; the flag wins. The command inherits the environment less SENDO_*.\n");
    help.push_str("Exit code: the command's; 128+n if signal n ended it; 127 or 126 if it could not be started; 64 for bad usage; 75 if the ledger gave no leave.\n");
    help
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Config, String> {
        let env = env.iter().map(|(key, value)| (OsString::from(key), OsString::from(value)));
        match read(args.iter().map(OsString::from), env) {
            Ok(Asked::Run(config)) => Ok(*config),
            Ok(other) => Err(format!("{other:?}")),
            Err(problem) => Err(problem.to_string()),
        }
    }

    const JOB: [(&str, &str); 4] = [
        ("SENDO_JOB", "a"),
        ("SENDO_ATTEMPT", "2"),
        ("SENDO_LEDGER_URL", "http://127.0.0.1:1/"),
        ("SENDO_TOKEN_FILE", "/t"),
    ];

    #[test]
    fn without_a_job_it_is_a_plain_init() {
        let config = run(&["--", "sleep", "--job"], &[]).unwrap();
        assert!(config.job.is_none() && !config.relay && config.grace.is_none());
        assert_eq!(config.command, ["sleep", "--job"]);
    }

    #[test]
    fn the_flag_wins_over_the_variable() {
        let mut env = JOB.to_vec();
        env.push(("SENDO_HEARTBEAT", "500ms"));
        let job = run(&["--attempt", "3", "--", "x"], &env).unwrap().job.unwrap();
        assert_eq!((job.id.attempt, job.heartbeat), (3, Duration::from_millis(500)));
    }

    #[test]
    fn each_error_names_the_setting_and_the_mend() {
        let with = |key, value| {
            let mut env = JOB.to_vec();
            env.retain(|(name, _)| *name != key);
            env.push((key, value));
            run(&["--", "x"], &env).unwrap_err()
        };
        for (error, parts) in [
            (with("SENDO_GRACE", "5"), ["SENDO_GRACE", "30s"]),
            (with("SENDO_ATTEMPT", "one"), ["SENDO_ATTEMPT", "one"]),
            (with("SENDO_LEDGER_URL", "mysql://x/"), ["SENDO_LEDGER_URL", "https://"]),
            (with("SENDO_ON_TERM", "wait"), ["SENDO_ON_TERM", "finish"]),
            (with("SENDO_FENCING", "strickt"), ["SENDO_FENCING", "strict"]),
            (run(&["--job", "a", "--", "x"], &[]).unwrap_err(), ["--attempt", "SENDO_ATTEMPT"]),
            (run(&["--bogus", "x"], &[]).unwrap_err(), ["--bogus", "--help"]),
            (run(&[], &[]).unwrap_err(), ["nothing to run", "usage:"]),
        ] {
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }
}
