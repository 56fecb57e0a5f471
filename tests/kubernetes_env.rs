//! The surroundings themselves: a control plane that answers, fates that come true, an agent that runs the real supervisor.

use crate::env::{
    is_alive,
    kubernetes::{
        Cluster, Namespace,
        agent::Agent,
        cluster,
        node::{self, Node},
    },
    wait_for,
    wrong_ledger::{Reply, WrongLedger},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
};

/// A Pod that Pod Security `restricted` lets pass.
fn pod(name: &str, fate: Value, container: Value) -> Value {
    let mut worker = json!({
        "name": "worker", "image": "worker",
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    let given = container.as_object().unwrap().clone();
    worker.as_object_mut().unwrap().extend(given);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "annotations": fate},
        "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false, "containers": [worker],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    })
}

fn terminated(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["terminated"]
}

#[test]
fn a_fake_pod_meets_its_fate() {
    let namespace = cluster().namespace();
    namespace.fake_nodes(1, "8", "32Gi");
    let fate = |name: &str, fate: Value| namespace.apply(&pod(name, fate, json!({})));
    fate("good", json!({"sendo.test/start-delay": "200ms", "sendo.test/duration": "200ms"}));
    fate(
        "hungry",
        json!({
            "sendo.test/duration": "200ms", "sendo.test/exit-code": "137", "sendo.test/reason": "OOMKilled", "sendo.test/message": "so hungry",
        }),
    );
    fate("imageless", json!({"sendo.test/wait-reason": "ImagePullBackOff", "sendo.test/message": "no such image"}));
    fate("endless", json!({"sendo.test/term-exit-code": "7"}));

    assert_eq!(terminated(&namespace.wait_for_phase("good", "Succeeded"))["exitCode"], 0);
    let hungry = namespace.wait_for_phase("hungry", "Failed");
    assert_eq!(terminated(&hungry)["exitCode"], 137);
    assert_eq!(terminated(&hungry)["reason"], "OOMKilled");
    assert_eq!(terminated(&hungry)["message"], "so hungry");
    namespace.wait_for_pod("imageless", "waiting", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        (waiting["reason"] == "ImagePullBackOff" && pod["status"]["phase"] == "Pending").then_some(())
    });
    namespace.wait_for_phase("endless", "Running");
    namespace.kubectl(&["delete", "pod", "endless", "--wait=false"]);
    namespace.wait_until_gone("endless");
}

#[test]
fn a_pod_without_a_node_of_its_namespace_is_unschedulable() {
    let (lonely, rich) = (cluster().namespace(), cluster().namespace());
    rich.fake_nodes(1, "8", "32Gi");
    lonely.apply(&pod("lonely", json!({}), json!({})));
    lonely.wait_for_pod("lonely", "unschedulable", |pod| {
        let conditions = pod["status"]["conditions"].as_array()?;
        conditions.iter().any(|one| one["reason"] == "Unschedulable").then_some(())
    });
}

#[test]
fn the_namespace_refuses_a_pod_that_is_not_restricted() {
    let namespace = cluster().namespace();
    let mut loose = pod("loose", json!({}), json!({}));
    loose["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    let why = namespace.try_apply(&loose).unwrap_err();
    assert!(why.contains("violates PodSecurity \"restricted:latest\""), "{why}");
    namespace.apply(&pod("strict", json!({}), json!({})));
}

#[test]
fn a_dispatcher_has_the_shipped_roles_and_no_more() {
    let (namespace, other) = (cluster().namespace(), cluster().namespace());
    let kubeconfig = namespace.dispatcher();
    let may = |namespace: &Namespace, verb: &str, what: &str| {
        let mut kubectl = namespace.cluster.kubectl();
        kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["auth", "can-i", verb, what, "-n", &namespace.name]);
        kubectl.output().unwrap().status.success()
    };
    assert!(may(&namespace, "create", "pods"));
    assert!(may(&namespace, "get", "nodes"));
    assert!(!may(&namespace, "get", "secrets"));
    assert!(!may(&namespace, "create", "serviceaccounts/token"));
    assert!(!may(&other, "create", "pods"));
}

#[test]
fn what_was_created_outlives_a_killed_api_server() {
    let cluster = Cluster::without_scheduler();
    let namespace = cluster.namespace();
    namespace.apply(&pod("lonely", json!({}), json!({})));
    cluster.kill_api_server();
    assert!(namespace.try_apply(&pod("late", json!({}), json!({}))).is_err());
    cluster.return_api_server();
    let pods = namespace.list("pods");
    assert_eq!(pods.len(), 1);
    assert!(pods[0]["spec"]["nodeName"].is_null(), "nobody schedules it");
}

/// A worker's Pod as a dispatcher makes it, as far as an agent looks at it.
fn worker(name: &str, ledger: &str, script: &str) -> Value {
    let mut pod = pod(
        name,
        json!({}),
        json!({
            "args": ["sh", "-c", script.replace('$', "$$")],
            "env": [
                {"name": "SENDO_JOB", "value": name}, {"name": "SENDO_ATTEMPT", "value": "1"},
                {"name": "SENDO_LEDGER_URL", "value": ledger}, {"name": "SENDO_HEARTBEAT", "value": "100ms"},
                {"name": "SENDO_TOKEN_FILE", "value": "/var/run/secrets/sendo/token"},
                {"name": "LEDGER", "value": "$(SENDO_LEDGER_URL) for $$1"},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
            ],
            "volumeMounts": [
                {"name": "token", "mountPath": "/var/run/secrets/sendo"}, {"name": "secrets", "mountPath": "/run/sendo/secrets"},
            ],
        }),
    );
    let token = json!({"serviceAccountToken": {"audience": "sendo", "expirationSeconds": 600, "path": "token"}});
    let secret = json!({"secret": {"name": "dwh", "items": [{"key": "password", "path": "dwh"}]}});
    pod["spec"]["volumes"] = json!([
        {"name": "token", "projected": {"sources": [token]}}, {"name": "secrets", "projected": {"sources": [secret]}},
    ]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(20);
    pod
}

fn with_secret(namespace: &Namespace) {
    let data = json!({"password": "b-of-the-boat"});
    namespace.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "dwh"}, "stringData": data}));
}

#[test]
fn the_agent_runs_the_real_supervisor_through_a_job() {
    let namespace = cluster().namespace();
    let agent = Agent::start(&namespace, 1);
    let ledger = WrongLedger::start(Reply::to);
    // It waits for its secret, as with a kubelet.
    namespace.apply(&worker("job", &ledger.url, "echo $POD_UID reports to $LEDGER; exit 3"));
    namespace.wait_for_pod("job", "waiting for its secret", |pod| {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        waiting["message"].as_str()?.contains("secret \"dwh\" not found").then_some(())
    });
    with_secret(&namespace);

    let pod = namespace.wait_for_phase("job", "Failed");
    assert_eq!(terminated(&pod)["exitCode"], 3);
    let word: Value = serde_json::from_str(terminated(&pod)["message"].as_str().unwrap()).unwrap();
    assert!(word.is_object(), "{word}");
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let said = format!("{uid} reports to {} for $1\n", ledger.url);
    assert!(agent.output("job").contains(&said), "{}", agent.output("job"));
    assert_eq!(fs::read_to_string(agent.folder("job").join("volumes/secrets/dwh")).unwrap(), "b-of-the-boat");

    // The token is one that the API server vouches for, for this Pod.
    let grant = ledger.wait("the question for a grant", |asked| asked.is_grant());
    let token = grant.token.strip_prefix("Bearer ").unwrap();
    let review = json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token, "audiences": ["sendo"]},
    });
    let answer = review_of(&namespace, &review);
    assert_eq!(answer["status"]["authenticated"], true, "{answer}");
    assert_eq!(answer["status"]["user"]["extra"]["authentication.kubernetes.io/pod-uid"][0], uid);
    assert!(ledger.has(|asked| asked.brings("ending")));
}

fn review_of(namespace: &Namespace, review: &Value) -> Value {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), review.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    serde_json::from_str(&namespace.cluster.run(&["create", "-o", "json", "-f", path])).unwrap()
}

#[test]
fn a_hundred_pods_report_at_once() {
    let namespace = cluster().namespace();
    let _agent = Agent::start(&namespace, 2);
    let ledger = WrongLedger::start(Reply::to);
    with_secret(&namespace);
    let pods: Vec<_> = (0..100).map(|number| worker(&format!("one-{number}"), &ledger.url, "true")).collect();
    namespace.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}));
    wait_for("the end of all", || {
        let ended = namespace.list("pods").iter().filter(|pod| pod["status"]["phase"] == "Succeeded").count();
        (ended == 100).then_some(())
    });
    let asked = ledger.asked();
    let ended: BTreeSet<_> = asked.iter().filter(|asked| asked.brings("ending")).map(|asked| &asked.token).collect();
    assert_eq!(ended.len(), 100);
}

#[test]
fn the_agent_obeys_a_deletion_and_waits_for_finalizers() {
    let namespace = cluster().namespace();
    let agent = Agent::start(&namespace, 1);
    let ledger = WrongLedger::start(Reply::to);
    with_secret(&namespace);
    let mut pod = worker("held", &ledger.url, "trap 'exit 9' TERM; while :; do sleep 0.1; done");
    pod["metadata"]["finalizers"] = json!(["sendo.dev/ledger"]);
    pod["spec"]["containers"][0]["env"].as_array_mut().unwrap().push(json!({"name": "SENDO_ON_TERM", "value": "stop"}));
    namespace.apply(&pod);
    namespace.wait_for_phase("held", "Running");
    ledger.wait("the start", |asked| asked.brings("phase"));
    namespace.kubectl(&["delete", "pod", "held", "--wait=false"]);
    let pod = namespace.wait_for_pod("held", "terminated", |pod| (!terminated(pod).is_null()).then(|| pod.clone()));
    assert_eq!(terminated(&pod)["exitCode"], 9, "{}", agent.output("held"));
    namespace.kubectl(&["patch", "pod", "held", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]);
    namespace.wait_until_gone("held");
}

#[test]
fn the_agent_misbehaves_when_it_is_told_to() {
    let namespace = cluster().namespace();
    let agent = Agent::start(&namespace, 1);
    let ledger = WrongLedger::start(Reply::to);
    with_secret(&namespace);
    namespace.apply(&worker("twice", &ledger.url, "sleep 1000"));
    namespace.wait_for_phase("twice", "Running");
    agent.start_again("twice");
    let inits = agent.inits("twice");
    assert!(inits.len() == 2 && inits.iter().all(|init| is_alive(*init)), "{inits:?}");
    namespace.wait_for_pod("twice", "restarted", |pod| {
        (pod["status"]["containerStatuses"][0]["restartCount"] == 1).then_some(())
    });

    agent.lose(&agent.nodes[0]);
    agent.kill_init("twice");
    wait_for("the node to be not ready", || {
        let node = namespace.get("node", &agent.nodes[0])?;
        let mut conditions = node["status"]["conditions"].as_array()?.iter();
        conditions.any(|one| one["type"] == "Ready" && one["status"] == "Unknown").then_some(())
    });
    assert_eq!(namespace.get("pod", "twice").unwrap()["status"]["phase"], "Running", "nobody has heard of its end");
    agent.find(&agent.nodes[0]);
    assert_eq!(terminated(&namespace.wait_for_phase("twice", "Failed"))["exitCode"], 137);
}

/// A Pod for a real kubelet: the worker image with a plain command.
fn contained(name: &str, script: &str) -> Value {
    let mut pod = pod(
        name,
        json!({}),
        json!({
            "image": node::WORKER, "imagePullPolicy": "Never", "args": ["sh", "-c", script],
            "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}},
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        }),
    );
    pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = json!(true);
    pod["spec"]["volumes"] = json!([{"name": "tmp", "emptyDir": {}}]);
    pod
}

#[test]
fn a_real_kubelet_runs_the_worker_image_and_tells_its_end() {
    let node = node::real();
    let script = "id -u; touch /etc/x 2>/dev/null || echo read-only; printf well >/dev/termination-log; exit 7";
    node.namespace.apply(&contained("ends", script));
    let pod = node.namespace.wait_for_phase("ends", "Failed");
    assert_eq!((&terminated(&pod)["exitCode"], &terminated(&pod)["message"]), (&json!(7), &json!("well")), "{pod:#}");
    assert_eq!(node.namespace.kubectl(&["logs", "ends"]), "10001\nread-only\n");
    assert_eq!(pod["spec"]["nodeName"], node.name);
}

#[test]
fn a_real_pod_reaches_a_server_on_the_nodes_address() {
    let node = node::real();
    let listener = std::net::TcpListener::bind((node.address.as_str(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    node.namespace.apply(&contained("calls", &format!("exec bash -c 'echo hello >/dev/tcp/{}/{port}'", node.address)));
    let (mut stream, _) = listener.accept().unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    assert_eq!(said, "hello\n");
    node.namespace.wait_for_phase("calls", "Succeeded");
}

#[test]
fn the_worker_image_starts_embulk_from_its_class_data_archive() {
    let node = node::real();
    let mut pod = contained("embulk", "test -e /opt/embulk/embulk.jsa && embulk --version");
    let options = json!({"name": "EMBULK_JAVA_OPTS", "value": "-Xshare:on"}); // an archive that does not fit: no start
    pod["spec"]["containers"][0]["env"] = json!([options]);
    node.namespace.apply(&pod);
    let ended = node.namespace.wait_for_pod("embulk", "ended", |pod| (!terminated(pod).is_null()).then(|| pod.clone()));
    let said = node.namespace.kubectl(&["logs", "embulk"]);
    assert!(said.contains("0.11.5"), "{said}{ended:#}");
}

#[test]
fn the_control_image_is_the_control_program() {
    let node = node::real();
    let mut pod = contained("control", "");
    pod["spec"]["containers"][0]["image"] = json!(node::CONTROL);
    pod["spec"]["containers"][0]["args"] = json!(["--version"]);
    node.namespace.apply(&pod);
    node.namespace.wait_for_phase("control", "Succeeded");
    assert_eq!(node.namespace.kubectl(&["logs", "control"]), format!("sendo {}\n", env!("CARGO_PKG_VERSION")));
}

/// In the run that this starts, of this same test: a folder. There it starts a cluster and an agent's Pod, and waits to be killed.
const VICTIM: &str = "SENDO_TEST_TO_BE_KILLED";

#[test]
fn a_killed_test_run_leaves_nothing_of_its_cluster_and_node() {
    if let Some(folder) = std::env::var_os(VICTIM) {
        wait_to_be_killed(Path::new(&folder));
    }
    let folder = crate::env::scratch();
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["kubernetes_env::a_killed_test_run_leaves_nothing_of_its_cluster_and_node", "--exact"])
        .env(VICTIM, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pids: Vec<i32> = wait_for("the other run's cluster", || {
        let text = fs::read_to_string(folder.path().join("pids")).ok()?;
        let whole = text.strip_suffix(" all")?;
        Some(whole.split_whitespace().map(|pid| pid.parse().unwrap()).collect())
    });
    assert!(pids.iter().all(|pid| is_alive(*pid)), "{pids:?}");
    assert!(Node::traces(run.id()).len() > 1);
    run.kill().unwrap();
    run.wait().unwrap();
    wait_for("the end of all", || pids.iter().all(|pid| !is_alive(*pid)).then_some(()));
    wait_for("what is left of the node to go", || Node::traces(run.id()).is_empty().then_some(()));
}

fn wait_to_be_killed(folder: &Path) -> ! {
    let cluster = cluster();
    let node = Node::start(cluster, &[]);
    node.namespace.apply(&pod("real", json!({}), json!({"image": node::PAUSE, "imagePullPolicy": "Never"})));
    node.namespace.wait_for_phase("real", "Running");
    let namespace = cluster.namespace();
    let agent = Agent::start(&namespace, 1);
    namespace.apply(&pod("pod", json!({}), json!({"args": ["sleep", "1000"]})));
    let programs = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"];
    let pids = programs.map(|name| cluster.pid(name).to_string()).join(" ");
    fs::write(folder.join("pids"), format!("{pids} {} {} all", node.pid(), agent.init("pod"))).unwrap();
    loop {
        std::thread::park();
    }
}
