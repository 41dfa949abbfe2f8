#![allow(clippy::unwrap_used)]
use super::*;
use crate::{DigestChallenge, DigestCredentials};

fn rfc7616(algorithm: Algorithm) -> HexDigest {
    let secret = ha1(algorithm, b"Mufasa", b"http-auth@example.org", b"Circle of Life");
    let input = ResponseInput {
        method: b"GET",
        uri: b"/dir/index.html",
        nonce: b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
        qop: Some(b"auth"),
        nc: b"00000001",
        cnonce: b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
        body: b"",
    };
    response(algorithm, &secret, &input)
}

#[test]
fn responses_agree_with_the_examples_of_rfc_7616() {
    assert_eq!(rfc7616(Algorithm::Md5).as_bytes(), b"8ca523f5e9506fed4657c9700eebdbec");
    assert_eq!(
        rfc7616(Algorithm::Sha256).as_bytes(),
        b"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"
    );
}

#[test]
fn sha_512_256_agrees_with_the_published_vector_of_abc() {
    assert_eq!(
        Algorithm::Sha512_256.hash(&[b"abc"]).as_bytes(),
        b"53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"
    );
}

#[test]
fn forms_with_and_without_qop_agree_with_rfc_2617_and_2069() {
    // RFC 2069 §2.4 as corrected by its errata, then RFC 2617 §3.5.
    let secret = ha1(Algorithm::Md5, b"Mufasa", b"testrealm@host.com", b"CircleOfLife");
    let input = ResponseInput {
        method: b"GET",
        uri: b"/dir/index.html",
        nonce: b"dcd98b7102dd2f0e8b11d0f600bfb0c093",
        ..ResponseInput::default()
    };
    assert_eq!(response(Algorithm::Md5, &secret, &input).as_bytes(), b"1949323746fe6a43ef61f9606e7febea");
    let secret = ha1(Algorithm::Md5, b"Mufasa", b"testrealm@host.com", b"Circle Of Life");
    let input = ResponseInput { qop: Some(b"auth"), nc: b"00000001", cnonce: b"0a4f113b", ..input };
    assert_eq!(response(Algorithm::Md5, &secret, &input).as_bytes(), b"6629fae49393a05397450978507c4ef1");
}

#[test]
fn a_client_answer_is_verified_for_every_algorithm_and_qop() {
    for algorithm in [
        Algorithm::Md5,
        Algorithm::Md5Sess,
        Algorithm::Sha256,
        Algorithm::Sha256Sess,
        Algorithm::Sha512_256,
        Algorithm::Sha512_256Sess,
    ] {
        for qop in [None, Some(&b"auth"[..]), Some(b"auth-int"), Some(b"auth-int, auth")] {
            let mut header = Vec::new();
            Challenge {
                realm: b"a \"b\" c",
                nonce: b"n1",
                algorithm: Some(algorithm),
                qop,
                opaque: Some(b"o"),
                stale: true,
            }
            .write(&mut header);
            let challenge = DigestChallenge::parse(&header).unwrap();
            assert!(challenge.stale);
            let answer = Answer {
                username: b"bob",
                password: b"pw",
                method: b"REGISTER",
                uri: b"sip:h",
                cnonce: b"cn",
                nonce_count: 10,
                body: b"body",
            };
            let mut body = Vec::new();
            assert!(write_answer(&challenge, &answer, &mut body));
            let credentials = DigestCredentials::parse(&body).unwrap();
            assert_eq!(credentials.opaque, Some(&b"o"[..]));
            let secret = ha1(algorithm, b"bob", credentials.realm, b"pw");
            assert!(verify(&credentials, algorithm, &secret, b"REGISTER", b"body"));
            assert!(!verify(&credentials, algorithm, &secret, b"INVITE", b"body"));
            let wrong = ha1(algorithm, b"bob", credentials.realm, b"pv");
            assert!(!verify(&credentials, algorithm, &wrong, b"REGISTER", b"body"));
            let other = if algorithm == Algorithm::Md5 { Algorithm::Sha256 } else { Algorithm::Md5 };
            assert!(!verify(&credentials, other, &secret, b"REGISTER", b"body"));
            if qop == Some(b"auth-int") {
                assert!(!verify(&credentials, algorithm, &secret, b"REGISTER", b"other"));
            }
        }
    }
}

#[test]
fn stored_ha1_is_taken_in_either_case_and_length_only() {
    let digest = Algorithm::Md5.hash(&[b"x"]);
    assert!(digest.matches(&digest.as_bytes().to_ascii_uppercase()));
    assert!(!digest.matches(&digest.as_bytes()[..31]));
    assert_eq!(HexDigest::from_hex(b"xyz"), None);
    assert_eq!(HexDigest::from_hex(&[b'g'; 32]), None);
}

#[test]
fn challenges_cannot_be_split_by_line_ends_in_their_parts() {
    let mut out = Vec::new();
    Challenge { realm: b"a\r\nVia: x", nonce: b"n", ..Challenge::default() }.write(&mut out);
    assert_eq!(out, b"Digest realm=\"aVia: x\", nonce=\"n\"");
}
