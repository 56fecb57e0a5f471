//! Credentials and regions come from wherever the AWS SDK finds them; what was found is seen by the queue's endpoint.

use super::served::{verb, waiting};
use crate::env::{
    elasticmq::elasticmq,
    sqs_proxy::{Proxy, answering},
    stderr,
};
use serde_json::json;
use std::{fs, path::Path, process::Command};

const UNTIL: &str = "2100-01-01T00:00:00Z";

/// `sendo submit --queue` in these surroundings; gives back the access key and the region that the endpoint saw.
#[track_caller]
fn seen(home: &Path, surroundings: impl FnOnce(&mut Command)) -> (String, String) {
    let (mq, proxy) = (elasticmq(), Proxy::start());
    let queue = mq.queue("", 30, 5);
    let job = home.join("job.json");
    fs::write(&job, waiting("a").to_string()).unwrap();
    let mut command = verb(&proxy.endpoint);
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
        command.env_remove(variable);
    }
    surroundings(&mut command);
    let output = command.args(["submit", "--queue", &queue.url]).arg(&job).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(mq.depth(&queue.url).visible, 1);
    proxy.signer().unwrap()
}

fn found(key: &str) -> (String, String) {
    (key.into(), "elasticmq".into())
}

#[test]
fn credentials_come_from_the_environment_a_profile_or_a_program_that_it_names() {
    let home = crate::env::scratch();
    let of_environment = seen(home.path(), |command| {
        command.env("AWS_ACCESS_KEY_ID", "FROMENV").env("AWS_SECRET_ACCESS_KEY", "x");
    });
    assert_eq!(of_environment, found("FROMENV"));
    let profile = home.path().join("profile");
    let text = "[profile work]\naws_access_key_id = FROMPROFILE\naws_secret_access_key = x\nregion = of-the-profile\n";
    fs::write(&profile, text).unwrap();
    let of_profile = seen(home.path(), |command| {
        command.env("AWS_CONFIG_FILE", &profile).env("AWS_PROFILE", "work").env_remove("AWS_REGION");
    });
    assert_eq!(of_profile, ("FROMPROFILE".into(), "of-the-profile".into()));
    let said = json!({"Version": 1, "AccessKeyId": "FROMPROGRAM", "SecretAccessKey": "x", "SessionToken": "x", "Expiration": UNTIL});
    let file = home.path().join("said");
    fs::write(&file, said.to_string()).unwrap();
    fs::write(&profile, format!("[default]\ncredential_process = cat {}\n", file.display())).unwrap();
    let of_program = seen(home.path(), |command| {
        command.env("AWS_CONFIG_FILE", &profile);
    });
    assert_eq!(of_program, found("FROMPROGRAM"));
}

#[test]
fn credentials_come_from_a_web_identity() {
    let home = crate::env::scratch();
    let token = home.path().join("token");
    fs::write(&token, "a.b.c").unwrap();
    let sts = answering(|_, body| {
        assert!(body.contains("AssumeRoleWithWebIdentity") && body.contains("a.b.c"), "{body}");
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleWithWebIdentityResult>\
             <Credentials><AccessKeyId>FROMWEBIDENTITY</AccessKeyId><SecretAccessKey>x</SecretAccessKey><SessionToken>x</SessionToken>\
             <Expiration>{UNTIL}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
    });
    let of_token = seen(home.path(), |command| {
        command.env("AWS_WEB_IDENTITY_TOKEN_FILE", &token).env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/sendo");
        command.env("AWS_ENDPOINT_URL_STS", &sts.endpoint);
    });
    assert_eq!(of_token, found("FROMWEBIDENTITY"));
}

#[test]
fn credentials_come_from_the_identity_of_a_pod() {
    let home = crate::env::scratch();
    let token = home.path().join("token");
    fs::write(&token, "of-the-pod").unwrap();
    let agent = answering(|head, _| {
        assert!(head.contains("of-the-pod"), "{head}");
        json!({"AccessKeyId": "FROMPOD", "SecretAccessKey": "x", "Token": "x", "Expiration": UNTIL}).to_string()
    });
    let of_pod = seen(home.path(), |command| {
        command.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/v1/credentials", agent.endpoint));
        command.env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &token);
    });
    assert_eq!(of_pod, found("FROMPOD"));
}

#[test]
fn credentials_come_from_the_metadata_of_an_instance() {
    let home = crate::env::scratch();
    let instance = answering(|head, _| {
        if head.contains("/latest/api/token") {
            return "token-of-imds".into();
        }
        if head.contains("/security-credentials/the-role") || head.contains("/security-credentials-extended/the-role") {
            let said = json!({"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": "FROMINSTANCE",
                              "SecretAccessKey": "x", "Token": "x", "Expiration": UNTIL});
            return said.to_string();
        }
        "the-role".into()
    });
    let of_instance = seen(home.path(), |command| {
        command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", &instance.endpoint).env_remove("AWS_EC2_METADATA_DISABLED");
    });
    assert_eq!(of_instance, found("FROMINSTANCE"));
}
