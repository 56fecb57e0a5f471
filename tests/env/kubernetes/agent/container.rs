//! A Pod's process: what is mounted, its variables, its command.

use crate::env::supervisor;
use k8s_openapi::api::{
    authentication::v1::TokenRequest,
    core::v1::{ConfigMap, Secret, ServiceAccount},
};
use kube::{Api, Client, api::PostParams};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::process::{Child, Command};

/// The parent of PID 1, which dies with it. Not `unshare --fork`, which tells a KILL as exit 1.
const PARENT: &str = r#"setpriv --pdeathsig KILL -- sh -c '
  mount -t proc proc /proc && exec env --default-signal=INT,QUIT "$@"' init "$@" &
wait $!"#;

/// Ready to be started.
pub struct Container {
    folder: PathBuf,
    /// Its working directory.
    home: PathBuf,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
}

/// What a Pod's volumes are made from.
struct Sources<'a> {
    client: &'a Client,
    pod: &'a Value,
    namespace: &'a str,
}

impl Container {
    /// Makes the Pod's folder. The error is what a kubelet would say while it waits.
    pub async fn prepare(client: &Client, pod: &Value, folder: &Path) -> Result<Self, String> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap();
        let sources = Sources { client, pod, namespace };
        fs::create_dir_all(folder.join("work")).unwrap();
        fs::write(folder.join("termination-log"), "").unwrap();
        for volume in list(&pod["spec"]["volumes"]) {
            let place = folder.join("volumes").join(text(&volume["name"]));
            fs::create_dir_all(&place).unwrap();
            sources.fill(volume, &place).await?;
        }
        let container = &pod["spec"]["containers"][0];
        let places = places(container, folder);
        let mut variables = vec![
            ("PATH".to_owned(), path()),
            ("HOSTNAME".to_owned(), text(&pod["metadata"]["name"])),
            ("TMPDIR".to_owned(), behind("/tmp", &places).unwrap_or_else(|| show(&folder.join("work")))),
            ("SENDO_TERMINATION_LOG".to_owned(), show(&folder.join("termination-log"))),
        ];
        if let Some(secrets) = behind("/run/sendo/secrets", &places) {
            variables.push(("SENDO_SECRETS_DIR".to_owned(), secrets));
        }
        for variable in list(&container["env"]) {
            let value = expand(&sources.value(variable).await?, &variables);
            variables.push((text(&variable["name"]), behind(&value, &places).unwrap_or(value)));
        }
        let words = |words: &Value| {
            let words = list(words).iter().map(|word| expand(&text(word), &variables));
            words.map(|word| behind(&word, &places).unwrap_or(word)).collect::<Vec<_>>()
        };
        let [command, mut arguments] = [&container["command"], &container["args"]].map(words);
        let mut command = command.into_iter();
        let program = match command.next() {
            // As the worker image has it.
            None => {
                if arguments.is_empty() {
                    arguments = ["embulk", "run"].map(str::to_owned).into();
                }
                arguments.insert(0, "--".to_owned());
                supervisor()
            }
            Some(program) if program.ends_with("sendo-supervisor") => supervisor(),
            Some(program) => program.into(),
        };
        let arguments = command.chain(arguments).collect();
        let home = container["workingDir"].as_str().and_then(|path| behind(path, &places));
        let home = home.map_or_else(|| folder.join("work"), PathBuf::from);
        Ok(Self { folder: folder.to_owned(), home, program, arguments, variables })
    }

    /// Starts it; dies with this thread at the latest.
    pub fn start(&self) -> Child {
        let output = OpenOptions::new().create(true).append(true).open(self.folder.join("output")).unwrap();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "unshare", "--pid", "--mount", "--", "sh", "-c", PARENT, "agent"])
            .arg(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// What it left in the termination log.
    pub fn message(&self) -> String {
        let mut message = fs::read(self.folder.join("termination-log")).unwrap_or_default();
        message.truncate(super::status::MESSAGE_BYTES);
        String::from_utf8_lossy(&message).into_owned()
    }
}

/// The PID 1 below that process, once the program itself runs; `None` when it has ended before.
pub async fn init(parent: u32) -> Option<i32> {
    loop {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        if let Some(pid) = children.split_whitespace().next() {
            // Before its exec it would lose a TERM: PID 1 of a namespace has no handler yet.
            match fs::read(format!("/proc/{pid}/cmdline")) {
                Ok(words) if words.starts_with(b"sh\0-c\0setpriv") || words.starts_with(b"setpriv\0--pdeathsig") => {}
                Ok(words) if words.starts_with(b"sh\0-c\0\n  mount") || words.starts_with(b"env\0--default") => {}
                Ok(_) => return pid.parse().ok(),
                Err(_) => return None,
            }
        }
        if !crate::env::is_alive(parent.try_into().unwrap()) {
            return None;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

impl Sources<'_> {
    async fn fill(&self, volume: &Value, place: &Path) -> Result<(), String> {
        if !volume["secret"].is_null() {
            let secret = &volume["secret"];
            let files = self.secret(&text(&secret["secretName"]), secret).await?;
            write(place, files, &secret["items"]);
        }
        if !volume["configMap"].is_null() {
            let map = &volume["configMap"];
            write(place, self.config_map(map).await?, &map["items"]);
        }
        for source in list(&volume["projected"]["sources"]) {
            if !source["serviceAccountToken"].is_null() {
                let token = &source["serviceAccountToken"];
                fs::write(place.join(text(&token["path"])), self.token(token).await?).unwrap();
            }
            if !source["secret"].is_null() {
                let secret = &source["secret"];
                write(place, self.secret(&text(&secret["name"]), secret).await?, &secret["items"]);
            }
            if !source["configMap"].is_null() {
                let map = &source["configMap"];
                write(place, self.config_map(map).await?, &map["items"]);
            }
        }
        Ok(())
    }

    async fn secret(&self, name: &str, source: &Value) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), self.namespace);
        match secrets.get_opt(name).await.map_err(|why| why.to_string())? {
            Some(secret) => {
                Ok(secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect())
            }
            None if source["optional"] == true => Ok(BTreeMap::new()),
            None => Err(format!("secret \"{name}\" not found")),
        }
    }

    async fn config_map(&self, source: &Value) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let name = text(&source["name"]);
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.namespace);
        match maps.get_opt(&name).await.map_err(|why| why.to_string())? {
            Some(map) => {
                Ok(map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes())).collect())
            }
            None if source["optional"] == true => Ok(BTreeMap::new()),
            None => Err(format!("configmap \"{name}\" not found")),
        }
    }

    /// A token of the Pod's service account, bound to the Pod.
    async fn token(&self, source: &Value) -> Result<String, String> {
        let account = self.pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let metadata = &self.pod["metadata"];
        let audiences: Vec<_> = source["audience"].as_str().into_iter().collect();
        let request = json!({"spec": {
            "audiences": audiences, "expirationSeconds": source["expirationSeconds"].as_i64().unwrap_or(3600),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        }});
        let request: TokenRequest = serde_json::from_value(request).unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), self.namespace);
        let made = accounts.create_token_request(account, &PostParams::default(), &request).await;
        Ok(made.map_err(|why| why.to_string())?.status.unwrap().token)
    }

    async fn value(&self, variable: &Value) -> Result<String, String> {
        let from = &variable["valueFrom"];
        if from.is_null() {
            return Ok(text(&variable["value"]));
        }
        if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
            return Ok(self.field(path));
        }
        let key = &from["secretKeyRef"];
        assert!(!key.is_null(), "the agent knows no {from}");
        let mut secret = self.secret(&text(&key["name"]), key).await?;
        let bytes = secret.remove(&text(&key["key"])).ok_or_else(|| format!("couldn't find key {key} in Secret"))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn field(&self, path: &str) -> String {
        if let Some((map, key)) = path.split_once("['") {
            let map = map.split('.').fold(self.pod, |value, step| &value[step]);
            return text(&map[key.trim_end_matches("']")]);
        }
        match path {
            "status.podIP" | "status.hostIP" => "127.0.0.1".to_owned(),
            path => text(path.split('.').fold(self.pod, |value, step| &value[step])),
        }
    }
}

/// Mounted paths and the folders behind them, the deepest first.
fn places(container: &Value, folder: &Path) -> Vec<(String, String)> {
    let mut places: Vec<_> = list(&container["volumeMounts"])
        .iter()
        .map(|mount| {
            let place = folder.join("volumes").join(text(&mount["name"])).join(text(&mount["subPath"]));
            (text(&mount["mountPath"]), show(&place).trim_end_matches('/').to_owned())
        })
        .collect();
    let log = container["terminationMessagePath"].as_str().unwrap_or("/dev/termination-log");
    places.push((log.to_owned(), show(&folder.join("termination-log"))));
    places.sort_by_key(|(mounted, _)| std::cmp::Reverse(mounted.len()));
    places
}

/// `$(NAME)` becomes that variable's value, `$$` a dollar.
/// (<https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/>)
fn expand(text: &str, variables: &[(String, String)]) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = after;
        let named = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        let known = named.and_then(|(name, after)| {
            let (_, value) = variables.iter().rev().find(|(known, _)| known == name)?;
            Some((value, after))
        });
        if let Some(after) = after.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((value, after)) = known {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
        }
    }
    expanded + rest
}

/// What lies behind a path of the container.
fn behind(path: &str, places: &[(String, String)]) -> Option<String> {
    places.iter().find_map(|(mounted, place)| {
        let rest = path.strip_prefix(mounted.trim_end_matches('/'))?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{place}{rest}"))
    })
}

/// All keys as files, or those that `items` names.
fn write(place: &Path, files: BTreeMap<String, Vec<u8>>, items: &Value) {
    let paths: BTreeMap<_, _> = list(items).iter().map(|item| (text(&item["key"]), text(&item["path"]))).collect();
    for (key, bytes) in files {
        let path = if items.is_null() { Some(&key) } else { paths.get(&key) };
        let Some(path) = path.map(|path| place.join(path)) else { continue };
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// As the worker image has it: Embulk's entrypoint, and what it needs.
fn path() -> String {
    let usual = std::env::var("PATH").unwrap_or_default();
    let embulk = std::env::var_os("SENDO_EMBULK").map(PathBuf::from);
    let embulk = embulk.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/embulk"));
    format!("{}:{usual}:/usr/sbin:/sbin", show(&embulk.join("bin")))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn show(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
