//! The precedence matrix: which source wins for each setting, and which values cannot be used.

use super::*;
use crate::endpoint::ProxyUrl;
use crate::location::LocalPath;

const CONFIG: &str = "\
[default]
region = default-region
endpoint_url = http://default.example
ca_bundle = /default.pem
s3 =
  addressing_style = virtual
[profile prod]
region = prod-region
endpoint_url = http://prod.example
ca_bundle = /prod.pem
s3 =
  addressing_style = path
[profile bare]
output = json
[profile keys]
aws_access_key_id = K
aws_secret_access_key = S
[profile wrong]
endpoint_url = prod.example/path
use_fips_endpoint = maybe
";

const VARIABLES: [(&str, &str); 5] = [
    ("AWS_REGION", "env-region"),
    ("AWS_ENDPOINT_URL", "http://env.example"),
    ("AWS_CA_BUNDLE", "/env.pem"),
    ("AWS_ACCESS_KEY_ID", "K"),
    ("AWS_SECRET_ACCESS_KEY", "S"),
];

fn stated(profile: Option<&str>) -> Endpoint {
    Endpoint {
        url: Some("http://stated.example".to_owned()),
        region: Some("stated-region".to_owned()),
        path_style: Some(false),
        ca_bundle: Some(LocalPath("/stated.pem".into())),
        proxy: Some("http://stated.proxy:1".parse().unwrap()),
        ..named(profile)
    }
}

fn named(profile: Option<&str>) -> Endpoint {
    Endpoint {
        profile: profile.map(str::to_owned),
        allow_http: true,
        ..Endpoint::default()
    }
}

/// Returns the Region, URL, CA bundle, and addressing as texts.
fn settings(endpoint: Endpoint, variables: &[(&str, &str)], config: &str) -> [String; 4] {
    let resolved = endpoint.resolve(&Environment::of(variables.iter().copied(), config, ""));
    assert_eq!(resolved.mistakes, [], "{resolved:?}");
    let shown = |value: &str, origin: &SettingOrigin| format!("{value} ({origin})");
    let url = resolved
        .url
        .as_ref()
        .map(|url| shown(&url.value, &url.origin));
    let ca = resolved.network.ca_bundle.as_ref();
    let ca = ca.map(|ca| shown(&ca.value.display().to_string(), &ca.origin));
    [
        shown(&resolved.region.value, &resolved.region.origin),
        url.unwrap_or_default(),
        ca.unwrap_or_default(),
        format!("{:?}", resolved.path_style),
    ]
}

/// Asserts region, URL, CA bundle, and addressing.
fn assert_settings(
    endpoint: &Endpoint,
    variables: &[(&str, &str)],
    config: &str,
    expected: [&str; 4],
) {
    assert_eq!(
        settings(endpoint.clone(), variables, config),
        expected,
        "{endpoint:?} {variables:?}"
    );
}

const OF_VARIABLES: [&str; 4] = [
    "env-region (AWS_REGION)",
    "http://env.example (AWS_ENDPOINT_URL)",
    "/env.pem (AWS_CA_BUNDLE)",
    "Some(true)",
];
const OF_NOTHING: [&str; 4] = ["us-east-1 (by default)", "", "", "None"];

#[test]
fn what_is_stated_comes_before_a_named_profile_and_that_before_the_environment() {
    let stated_ones = [
        "stated-region (as stated)",
        "http://stated.example (as stated)",
        "/stated.pem (as stated)",
        "Some(false)",
    ];
    assert_settings(&stated(Some("prod")), &VARIABLES, CONFIG, stated_ones);
    let of_prod = [
        "prod-region (profile prod)",
        "http://prod.example (profile prod)",
        "/prod.pem (profile prod)",
        "Some(true)",
    ];
    assert_settings(&named(Some("prod")), &VARIABLES, CONFIG, of_prod);
    // A named profile without a setting leaves it to the environment, not to `default`.
    assert_settings(&named(Some("bare")), &VARIABLES, CONFIG, OF_VARIABLES);
    assert_settings(&named(Some("bare")), &[], CONFIG, OF_NOTHING);
}

#[test]
fn the_environment_comes_before_the_profile_that_it_selects() {
    let [region, url, bundle, _] = OF_VARIABLES;
    let expected = [region, url, bundle, "Some(false)"];
    assert_settings(&named(None), &VARIABLES, CONFIG, expected);
    assert_settings(&named(None), &VARIABLES, "", OF_VARIABLES);
    let of_default = [
        "default-region (profile default)",
        "http://default.example (profile default)",
        "/default.pem (profile default)",
        "Some(false)",
    ];
    assert_settings(&named(None), &[], CONFIG, of_default);
    let mixed = [
        "env-region (AWS_REGION)",
        "http://prod.example (profile prod)",
        "/prod.pem (profile prod)",
        "Some(true)",
    ];
    let selected = [("AWS_PROFILE", "prod"), ("AWS_REGION", "env-region")];
    assert_settings(&named(None), &selected, CONFIG, mixed);
    assert_settings(&named(None), &[], "", OF_NOTHING);
}

#[test]
fn variables_are_read_in_order_and_empty_ones_are_unset() {
    let empty = [
        ("AWS_REGION", ""),
        ("AWS_DEFAULT_REGION", "second"),
        ("AWS_ENDPOINT_URL", ""),
        ("AWS_CA_BUNDLE", ""),
    ];
    let second = ["second (AWS_DEFAULT_REGION)", "", "", "None"];
    assert_settings(&named(None), &empty, "", second);
    let both = [
        ("AWS_PROFILE", ""),
        ("AWS_ENDPOINT_URL_S3", "http://s3.example/"),
        ("AWS_ENDPOINT_URL", "http://x.example"),
    ];
    let of_s3 = [
        "us-east-1 (by default)",
        "http://s3.example (AWS_ENDPOINT_URL_S3)",
        "",
        "Some(true)",
    ];
    assert_settings(&named(None), &both, "", of_s3);
    let ignored = [
        ("AWS_ENDPOINT_URL", "http://x.example"),
        ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
    ];
    assert_settings(&named(None), &ignored, "", OF_NOTHING);
}

#[test]
fn a_named_profile_takes_the_keys_of_the_environment_out_of_the_chain() {
    use CredentialSource::{
        Container, Environment as Variables, InstanceMetadata, Profile, WebIdentity,
    };
    let of = |profile: Option<&str>, variables: &[(&'static str, &'static str)]| {
        let environment = Environment::of(
            variables.iter().copied(),
            CONFIG,
            "[default]\naws_access_key_id = D\n",
        );
        named(profile).resolve(&environment).credentials
    };
    let keys = ("AWS_ACCESS_KEY_ID", "K");
    let secret = ("AWS_SECRET_ACCESS_KEY", "S");
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    let profile = |name: &str| Profile(name.to_owned());
    assert_eq!(of(Some("keys"), &[keys, secret]), [profile("keys")]);
    assert_eq!(of(Some("bare"), &[keys, secret, off]), []);
    assert_eq!(
        of(Some("bare"), &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", "u")]),
        [Container, InstanceMetadata]
    );
    assert_eq!(
        of(None, &[keys, secret, off]),
        [Variables, profile("default")]
    );
    assert_eq!(
        of(None, &[("AWS_PROFILE", "keys"), keys, secret, off]),
        [Variables, profile("keys")]
    );
    let token = ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token");
    assert_eq!(
        of(
            None,
            &[("AWS_PROFILE", "bare"), token, ("AWS_ROLE_ARN", "arn")]
        ),
        [WebIdentity, InstanceMetadata]
    );
    assert_eq!(
        of(
            None,
            &[("AWS_PROFILE", "bare"), token, ("AWS_ROLE_ARN", ""), off]
        ),
        []
    );
    assert_eq!(
        of(
            None,
            &[("AWS_PROFILE", "keys"), token, ("AWS_ROLE_ARN", "arn"), off]
        ),
        [WebIdentity, profile("keys")]
    );
}

#[test]
fn what_cannot_be_used_is_named() {
    let of = |endpoint: Endpoint, variables: &[(&'static str, &'static str)]| {
        let resolved = endpoint.resolve(&Environment::of(variables.iter().copied(), CONFIG, ""));
        resolved
            .mistakes
            .into_iter()
            .map(|mistake| mistake.message)
            .collect::<Vec<_>>()
    };
    let absent = "there is no profile `nope` in the shared AWS configuration";
    assert_eq!(of(named(Some("nope")), &[]), [absent]);
    assert_eq!(
        of(named(None), &[("AWS_PROFILE", "nope")]),
        [format!("AWS_PROFILE is set, but {absent}")]
    );
    assert_eq!(
        of(named(Some("bare")), &[("AWS_PROFILE", "nope")]),
        [""; 0],
        "a named profile comes first"
    );
    assert_eq!(of(named(Some("wrong")), &[]).len(), 2);
    assert_eq!(
        of(named(None), &[("AWS_ACCESS_KEY_ID", "K")]),
        ["AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not"]
    );
    assert_eq!(
        of(named(None), &[("AWS_SECRET_ACCESS_KEY", "S")]),
        ["AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID is not"]
    );
    // Without a key ID, the old name may belong to another program.
    assert_eq!(of(named(None), &[("SECRET_ACCESS_KEY", "S")]), [""; 0]);
    let old_name = [("AWS_ACCESS_KEY_ID", "K"), ("SECRET_ACCESS_KEY", "S")];
    assert_eq!(of(named(None), &old_name), [""; 0]);
    let urls = [
        ("AWS_ENDPOINT_URL_S3", "s3.example/x"),
        ("AWS_ENDPOINT_URL_STS", "s3.example"),
    ];
    assert_eq!(of(named(None), &urls).len(), 2, "two mistakes");
    let equal = urls.map(|(name, _)| (name, "s3.example"));
    assert_eq!(of(named(None), &equal).len(), 2, "two variables");
    assert_eq!(
        of(named(None), &[("AWS_ENDPOINT_URL", "s3.example")]).len(),
        1,
        "one variable"
    );
    assert_eq!(
        of(named(None), &[("HTTP_PROXY", "socks5://u:p@h:1")]),
        ["SOCKS proxies are not supported"]
    );
    assert_eq!(
        of(named(Some("bare")), &[("AWS_REGION", "us east")]),
        ["`us east` is not a Region (AWS_REGION)"]
    );
    let config = "[profile lab]\nservices = gone\n";
    let lab = named(Some("lab")).resolve(&Environment::of([], config, ""));
    assert!(
        lab.mistakes[0].message.contains("[services gone]"),
        "{:?}",
        lab.mistakes
    );
    let fips = Endpoint {
        url: Some("https://s3.eu-west-1.amazonaws.com".to_owned()),
        ..named(Some("bare"))
    };
    assert_eq!(of(fips, &[("AWS_USE_FIPS_ENDPOINT", "true")]).len(), 1);
    let own = |url: &str| Endpoint {
        url: Some(url.to_owned()),
        ..named(Some("bare"))
    };
    let fips = [("AWS_USE_FIPS_ENDPOINT", "true")];
    for url in [
        "https://rgw.corp",
        "https://fips.corp",
        "http://127.0.0.1:9000",
    ] {
        let said = of(own(url), &fips);
        assert!(
            said.len() == 1 && said[0].contains("AWS_USE_FIPS_ENDPOINT") && said[0].contains(url),
            "{said:?}"
        );
    }
    assert!(of(own("https://s3-fips.us-east-1.amazonaws.com"), &fips).is_empty());
}

#[test]
fn a_syntax_error_in_the_files_is_not_an_empty_file() {
    let resolved = named(None).resolve(&Environment::of([], "[default\nregion = x\n", ""));
    assert_eq!(resolved.mistakes.len(), 1, "{:?}", resolved.mistakes);
}

#[test]
fn proxies_come_from_the_variables_of_both_cases() {
    let of = |variables: &[(&'static str, &'static str)]| {
        let network = named(Some("bare"))
            .resolve(&Environment::of(variables.iter().copied(), CONFIG, ""))
            .network;
        let show = |proxy: Option<Setting<ProxyUrl>>| {
            proxy.map_or_else(String::new, |proxy| proxy.value.to_string())
        };
        (show(network.http), show(network.https), network.no_proxy)
    };
    let (http, https, no) = of(&[
        ("https_proxy", "http://low:1"),
        ("HTTPS_PROXY", "http://up:1"),
    ]);
    assert_eq!((&*http, &*https), ("", "http://low:1"));
    assert!(no.covers("169.254.169.254", 80));
    let (http, https, no) = of(&[
        ("ALL_PROXY", "p:1"),
        ("HTTP_PROXY", "q:2"),
        ("NO_PROXY", "*.corp, h:80"),
    ]);
    assert_eq!((&*http, &*https), ("http://q:2", "http://p:1"));
    assert!(no.covers("x.corp", 443) && no.covers("h", 80) && !no.covers("h", 81));
    let (http, _, _) = of(&[("HTTP_PROXY", "q:2"), ("REQUEST_METHOD", "GET")]);
    assert_eq!(http, "");
    assert_eq!(of(&[("HTTPS_PROXY", ""), ("https_proxy", "")]).1, "");
    assert!(
        of(&[("HTTP_PROXY", "p:1"), ("NO_PROXY", "a, *")])
            .2
            .covers("127.0.0.1", 80)
    );
    let unused = [
        ("ALL_PROXY", "socks5://h:1"),
        ("HTTP_PROXY", "p:1"),
        ("HTTPS_PROXY", "p:1"),
    ];
    assert_eq!(of(&unused).1, "http://p:1");
}

#[test]
fn settings_of_the_environment_that_nothing_uses_are_no_mistakes() {
    let of = |url: Option<&str>, variables: &[(&'static str, &'static str)]| {
        let endpoint = Endpoint {
            url: url.map(str::to_owned),
            ..named(None)
        };
        let resolved = endpoint.resolve(&Environment::of(variables.iter().copied(), "", ""));
        (
            resolved.mistakes.len(),
            resolved.network.needed_ca_bundle().is_some(),
        )
    };
    let (plain, secure) = (Some("http://rgw.corp:9000"), Some("https://rgw.corp"));
    let socks = ("HTTPS_PROXY", "socks5://h:1");
    let bundle = ("AWS_CA_BUNDLE", "/nonexistent.pem");
    assert_eq!(of(plain, &[socks, bundle]), (0, false));
    assert_eq!(of(secure, &[socks, bundle]), (1, true));
    assert_eq!(of(secure, &[("HTTP_PROXY", "socks5://h:1")]).0, 0);
    assert_eq!(of(plain, &[("HTTP_PROXY", "socks5://h:1")]).0, 1);
    assert_eq!(of(secure, &[socks, ("NO_PROXY", "rgw.corp")]).0, 0);
    assert_eq!(of(secure, &[socks, ("NO_PROXY", "rgw.corp:9000")]).0, 1);
    assert_eq!(of(None, &[socks]).0, 1);
    assert_eq!(of(None, &[socks, ("NO_PROXY", "amazonaws.com")]).0, 0);
    assert!(
        of(plain, &[bundle, ("HTTP_PROXY", "https://p:1")]).1,
        "TLS to the proxy"
    );
    let role = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "t"),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x"),
    ];
    assert_eq!(
        of(plain, &[&role[..], &[socks, bundle]].concat()),
        (1, true),
        "the Security Token Service"
    );
}

#[test]
fn endpoints_that_differ_by_profile_only_are_two_servers() {
    let environment = Environment::of([], CONFIG, "");
    let (prod, default) = (
        named(Some("prod")).resolve(&environment),
        named(None).resolve(&environment),
    );
    assert!(!prod.is_same_server(&default));
    let other = Endpoint {
        name: "other".to_owned(),
        ..named(Some("prod"))
    }
    .resolve(&environment);
    assert!(prod.is_same_server(&other));
    assert_eq!(
        prod.describe(),
        "`default` (http://prod.example, profile prod)"
    );
}

#[test]
fn plain_http_to_other_machines_must_be_allowed() {
    let refused = |endpoint: Endpoint, variables: &[(&'static str, &'static str)]| {
        let resolved = endpoint.resolve(&Environment::of(variables.iter().copied(), CONFIG, ""));
        let shown = |mistake: EndpointMistake| format!("{:?} {}", mistake.field, mistake.message);
        resolved
            .mistakes
            .into_iter()
            .map(shown)
            .collect::<Vec<_>>()
            .join("\n")
    };
    let at = |url: &str| Endpoint {
        url: Some(url.to_owned()),
        allow_http: false,
        ..named(Some("bare"))
    };
    let strict = |profile: &str| Endpoint {
        allow_http: false,
        ..named(Some(profile))
    };
    for url in [
        "https://rgw.example",
        "http://127.0.0.1:9000",
        "http://[::1]",
        "http://localhost:1",
    ] {
        assert_eq!(refused(at(url), &[]), "", "{url}");
    }
    let text = refused(at("http://rgw.example"), &[]);
    assert!(
        text.starts_with("Some(\"url\") http://rgw.example is plain HTTP"),
        "{text}"
    );
    assert_eq!(
        refused(
            Endpoint {
                allow_http: true,
                ..at("http://rgw.example")
            },
            &[]
        ),
        ""
    );
    let text = refused(strict("prod"), &[]);
    assert!(
        text.starts_with("Some(\"profile\") http://prod.example (profile prod)"),
        "{text}"
    );
    let text = refused(
        strict("bare"),
        &[("AWS_ENDPOINT_URL", "http://env.example")],
    );
    assert!(
        text.starts_with("None http://env.example (AWS_ENDPOINT_URL)"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
    let urls = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS"];
    let with_role = Endpoint {
        assume_role: Some(AssumeRole {
            arn: "arn:aws:iam::111122223333:role/name".to_owned(),
            external_id: None,
            session_name: None,
            duration: None,
        }),
        ..strict("bare")
    };
    let text = refused(with_role, &urls.map(|name| (name, "http://env.example")));
    assert_eq!(text.lines().count(), 2, "{text}");
    // The URL of STS matters only if s3haul assumes a role.
    let sts = [("AWS_ENDPOINT_URL_STS", "http://sts.example")];
    assert_eq!(refused(at("http://127.0.0.1:1"), &sts), "");
    let text = refused(strict("bare"), &sts);
    assert!(
        text.starts_with("None STS at http://sts.example (AWS_ENDPOINT_URL_STS)"),
        "{text}"
    );
    // A proxy on another machine sees the requests to a server on this machine.
    let through = [("HTTP_PROXY", "http://u:p@proxy.example:3128")];
    let text = refused(at("http://127.0.0.1:1"), &through);
    assert!(
        text.contains("through the proxy http://proxy.example:3128") && !text.contains("u:p"),
        "{text}"
    );
    assert_eq!(
        refused(
            at("http://127.0.0.1:1"),
            &[through[0], ("NO_PROXY", "127.0.0.1")]
        ),
        ""
    );
    assert_eq!(
        refused(
            at("http://127.0.0.1:1"),
            &[("HTTP_PROXY", "http://localhost:3128")]
        ),
        ""
    );
}
