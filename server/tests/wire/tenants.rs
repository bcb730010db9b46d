//! Tenants: who may call, and what is over a quota.

use sluice_proto::rerank::v1::{Method, RerankRequest, RerankResponse, Stage};
use sluice_server::config::TenantConfig;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::common::{SCRIPT, TestServer, reason, request};

fn tenant(name: &str, token: &str) -> TenantConfig {
    TenantConfig { name: name.to_owned(), token: token.into(), ..TenantConfig::default() }
}

async fn serve(script: &str, tenants: Vec<TenantConfig>) -> TestServer {
    TestServer::scripted(script, |config| config.tenant = tenants).await
}

async fn rerank(server: &TestServer, token: Option<&str>, request: RerankRequest) -> Result<RerankResponse, Status> {
    let mut request = Request::new(request);
    if let Some(token) = token {
        let header = format!("Bearer {token}").parse().expect("a header");
        request.metadata_mut().insert("authorization", header);
    }
    Ok(server.rerank().await.rerank(request).await?.into_inner())
}

/// `OK`, or the code and the reason; a refusal for a quota says when to come back.
async fn seen(server: &TestServer, token: Option<&str>) -> String {
    match rerank(server, token, request("red", &["red", "blue"])).await {
        Ok(_) => "OK".to_owned(),
        Err(status) => {
            let over = status.code() == Code::ResourceExhausted;
            assert_eq!(over, status.get_details_retry_info().is_some(), "{status:?}");
            format!("{:?} {}", status.code(), reason(&status))
        }
    }
}

const STRANGER: &str = "Unauthenticated UNAUTHENTICATED";
const OVER: &str = "ResourceExhausted QUOTA_EXCEEDED";

#[tokio::test]
async fn strangers_are_sent_away() {
    let cases = [
        (vec![], ["OK", "OK", "OK"]),
        (vec![tenant("a", "key")], [STRANGER, "OK", STRANGER]),
        (vec![tenant("a", "key"), tenant("everybody", "")], ["OK", "OK", STRANGER]),
        (vec![tenant("everybody", "")], ["OK", "OK", "OK"]),
    ];
    for (tenants, expected) in cases {
        let server = serve(SCRIPT, tenants.clone()).await;
        for (token, expected) in [None, Some("key"), Some("kez")].into_iter().zip(expected) {
            assert_eq!(seen(&server, token).await, expected, "{token:?} of {tenants:?}");
        }
    }
}

#[tokio::test]
async fn what_is_over_a_quota_is_refused_to_its_tenant_alone() {
    let slow = "max_tokens = 64\nservice_time.per_batch = \"2s\"\n";
    let one = |quota: fn(&mut TenantConfig)| {
        let mut tenant = tenant("a", "a");
        quota(&mut tenant);
        tenant
    };
    let requests = one(|tenant| tenant.requests_per_second = 1);
    let tokens = one(|tenant| tenant.tokens_per_second = 1);
    for limited in [requests, tokens] {
        let server = serve(SCRIPT, vec![limited.clone(), tenant("b", "b")]).await;
        assert_eq!(seen(&server, Some("a")).await, "OK", "{limited:?}");
        // One second's worth is used up; a slow machine may take a second for some of these calls, not for all.
        let mut further = Vec::new();
        for _ in 0..5 {
            further.push(seen(&server, Some("a")).await);
        }
        assert!(further.iter().any(|seen| seen == OVER), "{limited:?}: {further:?}");
        assert!(further.iter().all(|seen| seen == OVER || seen == "OK"), "{limited:?}: {further:?}");
        assert_eq!(seen(&server, Some("b")).await, "OK", "{limited:?}");
    }
    let server = serve(slow, vec![one(|tenant| tenant.requests_in_flight_max = 1), tenant("b", "b")]).await;
    let together = tokio::join!(seen(&server, Some("a")), seen(&server, Some("a")), seen(&server, Some("b")));
    let mut of_a = [together.0.as_str(), together.1.as_str()];
    of_a.sort_unstable();
    assert_eq!((of_a, together.2.as_str()), (["OK", OVER], "OK"));
    assert_eq!(seen(&server, Some("a")).await, "OK", "what has ended is not in flight");
}

/// What a later stage computes is owed, not refused: the stages before it would be lost, and paid for again.
#[tokio::test]
async fn a_cascade_is_not_refused_in_its_middle() {
    let stages = [Method::LateInteraction, Method::CrossEncoder];
    let stages = stages.map(|method| Stage { method: method.into(), ..Stage::default() }).to_vec();
    let asked = RerankRequest { stages, ..request("red", &["blue sand", "red sand"]) };
    let limited = TenantConfig { tokens_per_second: 1, ..tenant("a", "a") };
    let server = serve(SCRIPT, vec![limited]).await;
    let answer = rerank(&server, Some("a"), asked).await.expect("whole, or not begun");
    let places: Vec<(u32, u32)> = answer.results.iter().map(|result| (result.index, result.stage)).collect();
    assert_eq!((places, answer.partial), (vec![(1, 2), (0, 2)], false));
    // The tokens of both stages, at one a second.
    assert_eq!(seen(&server, Some("a")).await, OVER);
}
