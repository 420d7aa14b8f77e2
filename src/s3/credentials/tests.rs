//! The messages about missing credentials.

use super::*;

fn told(error: &CredentialsError, env: &[(&str, &str)], is_instance: bool) -> NoIdentity {
    let env = |name: &str| {
        env.iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| (*value).to_owned())
    };
    explain(
        error,
        &CredentialOrigin::default(),
        None,
        &Machine {
            env: &env,
            is_instance,
        },
        false,
    )
}

#[test]
fn a_token_file_that_is_not_there_yet_is_waited_for_and_named() {
    let error = CredentialsError::provider_error(io::Error::from_raw_os_error(2));
    let env = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/token"),
        ("AWS_ROLE_ARN", "arn:x"),
    ];
    let NoIdentity { may_pass, message } = told(&error, &env, false);
    assert!(
        may_pass && message.contains("/run/token: no such file"),
        "{message}"
    );
    let denied = CredentialsError::provider_error(io::Error::from_raw_os_error(13));
    assert!(
        !told(&denied, &env, false).may_pass,
        "rights do not change by themselves"
    );
}

#[test]
fn the_answer_of_an_endpoint_decides() {
    let env = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1/c")];
    for (text, may_pass) in [
        (
            "Non-success status from HTTP credential provider: StatusCode(503)",
            true,
        ),
        (
            "Non-success status from HTTP credential provider: StatusCode(404)",
            true,
        ),
        (
            "Non-success status from HTTP credential provider: StatusCode(403)",
            false,
        ),
    ] {
        let told = told(&CredentialsError::provider_error(text), &env, false);
        assert_eq!(told.may_pass, may_pass, "{told}");
        assert!(
            told.message
                .starts_with("container credentials at http://127.0.0.1:1/c"),
            "{told}"
        );
    }
}

#[test]
fn only_the_parenthesis_of_a_status_is_dropped() {
    for (text, plain) in [
        ("status StatusCode(503)", "status HTTP 503"),
        (
            "StatusCode(404) (by (a) proxy), StatusCode(5)",
            "HTTP 404 (by (a) proxy), HTTP 5",
        ),
        ("exited (see the log)", "exited (see the log)"),
        ("StatusCode(none) x", "StatusCode(none) x"),
        ("StatusCode(", "StatusCode("),
    ] {
        assert_eq!(with_plain_status(text), plain);
    }
}

#[test]
fn instance_metadata_is_waited_for_where_it_must_be() {
    let error = CredentialsError::not_loaded("could not communicate with IMDS");
    assert!(!told(&error, &[], false).may_pass, "a laptop");
    assert!(told(&error, &[], true).may_pass);
    let named = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    assert!(told(&error, &named, false).may_pass);
}

#[test]
fn credentials_that_were_there_may_come_back() {
    let error = CredentialsError::not_loaded("nothing");
    let machine = Machine {
        env: &|_| None,
        is_instance: false,
    };
    assert!(explain(&error, &CredentialOrigin::default(), None, &machine, true).may_pass);
    assert!(!explain(&error, &CredentialOrigin::default(), None, &machine, false).may_pass);
}

#[test]
fn profiles_are_named() {
    let origin = CredentialOrigin {
        profile: Some("prod".to_owned()),
        ..CredentialOrigin::default()
    };
    let machine = Machine {
        env: &|_| None,
        is_instance: false,
    };
    let inner = CredentialsError::provider_error("Error retrieving credentials: exited with 1");
    let error = CredentialsError::provider_error(inner);
    let told = explain(&error, &origin, None, &machine, false);
    assert!(
        !told.may_pass && told.message.starts_with("profile `prod`: error retrieving"),
        "{told}"
    );
}
