use super::*;
use crate::record::wire::AttemptId;
use k8s_openapi::api::core::v1::Pod;

const TOLD: Told = Told { heartbeat: Duration::from_secs(10), linger: Duration::from_secs(600) };

fn settings() -> Settings {
    Settings {
        namespace: "jobs".into(),
        image: "registry.example/worker".into(),
        default_tag: Some("1".into()),
        ledger_url: "http://sendo:8921/".into(),
        ..Settings::default()
    }
}

fn order(more: Value) -> Order {
    let mut job = json!({"version": 1, "id": "acme:orders"});
    job.as_object_mut().unwrap().extend(object(more));
    let job: Job = serde_json::from_value(job).unwrap();
    Order { id: AttemptId { job: job.id.clone(), attempt: 2 }, uid: String::new(), job, avoid_node: None }
}

/// As the API server understands it, which drops what it does not know.
fn typed(pod: Value) -> Value {
    let read: Pod = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), pod, "a Pod of Kubernetes' own");
    pod
}

fn made(settings: &Settings, template: &Template, more: Value) -> Result<Value, String> {
    pod(settings, template, TOLD, &order(more)).map(typed)
}

#[test]
fn the_whole_pod_of_a_job() {
    let job = json!({
        "tenant": "acme", "definition": "orders to dwh", "image_tag": "0.11.5-3", "command": ["embulk", "run", "$(PRICE)"],
        "secrets": {"dwh": {"name": "acme-dwh", "key": "password"}},
        "resources": {"cpu": "250m", "memory": "2Gi", "disk": "10Gi"}, "deadline": "1h", "grace": "30m", "stall_after": "15m",
        "fencing": "strict", "env": {"TZ": "$HOME"},
    });
    let pod = made(&settings(), &Template::default(), job).unwrap();
    let expected: Value = serde_json::from_str(include_str!("pod.json")).unwrap();
    assert_eq!(pod, expected, "{pod:#}");
}

#[test]
fn no_pod_is_ever_without_what_safety_rests_on() {
    let template = Template { spec: object(json!({"nodeSelector": {"pool": "transfers"}})), ..Template::default() };
    let pod = made(&settings(), &template, json!({})).unwrap();
    assert_eq!(pod["spec"]["nodeSelector"]["pool"], "transfers");
    assert_eq!(pod["spec"]["restartPolicy"], "Never");
    assert_eq!(pod["spec"]["automountServiceAccountToken"], false);
    assert_eq!(pod["metadata"]["finalizers"], json!([name::FINALIZER]));
    assert_eq!(pod["metadata"]["annotations"]["cluster-autoscaler.kubernetes.io/safe-to-evict"], "false");
    assert_eq!(pod["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"], "true");
    // The image's own command.
    assert!(pod["spec"]["containers"][0].get("args").is_none());
}

#[test]
fn side_containers_and_the_workers_surroundings_come_from_the_template() {
    let template = Template {
        spec: object(json!({
            "containers": [{"name": "side", "image": "x"}], "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        })),
        worker: object(json!({
            "env": [{"name": "TZ", "value": "UTC"}, {"name": "PROXY", "value": "p"}],
            "volumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        })),
        ..Template::default()
    };
    let pod = made(&settings(), &template, json!({"env": {"TZ": "Asia/Tokyo"}})).unwrap();
    let containers = pod["spec"]["containers"].as_array().unwrap();
    assert_eq!(containers.iter().map(|one| one["name"].as_str().unwrap()).collect::<Vec<_>>(), ["side", "worker"]);
    let env = containers[1]["env"].as_array().unwrap();
    let of =
        |name: &str| env.iter().filter(|one| one["name"] == name).map(|one| one["value"].clone()).collect::<Vec<_>>();
    assert_eq!((of("TZ"), of("PROXY")), (vec![json!("Asia/Tokyo")], vec![json!("p")]));
    assert!(containers[1]["volumeMounts"].as_array().unwrap().len() > 1);
    assert!(pod["spec"]["volumes"].as_array().unwrap().iter().any(|one| one["name"] == "ca"));
}

#[test]
fn what_a_cluster_does_not_allow_is_refused_by_name() {
    let mut settings = settings();
    settings.max_memory = Some("4Gi".parse().unwrap());
    settings.max_cpu = Some("2".parse().unwrap());
    settings.max_disk = Some("20Gi".parse().unwrap());
    settings.allow_images = vec!["registry.example/other:*".into()];
    let refused = |job| made(&settings, &Template::default(), job).unwrap_err();
    for (job, named) in [
        (json!({"resources": {"memory": "8Gi"}}), "resources.memory"),
        (json!({"resources": {"cpu": "3"}}), "resources.cpu"),
        (json!({"resources": {"disk": "21Gi"}}), "resources.disk"),
        (json!({"image": "evil.example/other:1"}), "allow_images"),
        (json!({"image_tag": "1@sha256:0"}), "image_tag"),
        (json!({"image_tag": ""}), "image_tag"),
        (json!({"command": ["--ledger-url", "http://evil/"]}), "command"),
        (json!({"secrets": {"x": {"env": "HOME"}}}), "secret `x`"),
    ] {
        assert!(refused(job).contains(named), "{named}");
    }
    let allowed = made(&settings, &Template::default(), json!({"image": "registry.example/other:7"})).unwrap();
    assert_eq!(allowed["spec"]["containers"][0]["image"], "registry.example/other:7");
}

#[test]
fn the_supervisor_is_done_before_the_kubelet_kills() {
    let mut settings = settings();
    settings.max_grace = Span(Duration::from_secs(600));
    let pod = made(&settings, &Template::default(), json!({"grace": "5h"})).unwrap();
    let env = pod["spec"]["containers"][0]["env"].as_array().unwrap();
    let grace = env.iter().find(|one| one["name"] == "SENDO_GRACE").unwrap();
    assert_eq!((&pod["spec"]["terminationGracePeriodSeconds"], &grace["value"]), (&json!(600), &json!("9m 50s")));
}

#[test]
fn a_bad_node_is_avoided_and_not_forbidden() {
    let theirs =
        json!({"weight": 1, "preference": {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}});
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [theirs]}});
    let template = Template { spec: object(json!({"affinity": affinity})), ..Template::default() };
    for (template, others) in [(Template::default(), 0), (template, 1)] {
        let order = Order { avoid_node: Some("bad".into()), ..order(json!({})) };
        let pod = typed(pod(&settings(), &template, TOLD, &order).unwrap());
        let preferred = &pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"];
        let field = json!({"key": "metadata.name", "operator": "NotIn", "values": ["bad"]});
        assert_eq!(preferred[others]["preference"]["matchFields"], json!([field]));
    }
}
