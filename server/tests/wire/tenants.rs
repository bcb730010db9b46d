//! Tenants: who may call, and what is over a quota.

use sluice_proto::rerank::v1::{Budget, Method, PartialReason, RerankRequest, RerankResponse, Stage};
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
    let slow = "max_tokens = 64\nservice_time.per_batch = \"300ms\"\n";
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
        assert_eq!(seen(&server, Some("a")).await, OVER, "{limited:?}");
        assert_eq!(seen(&server, Some("b")).await, "OK", "{limited:?}");
    }
    let server = serve(slow, vec![one(|tenant| tenant.requests_in_flight_max = 1), tenant("b", "b")]).await;
    let together = tokio::join!(seen(&server, Some("a")), seen(&server, Some("a")), seen(&server, Some("b")));
    let mut of_a = [together.0.as_str(), together.1.as_str()];
    of_a.sort_unstable();
    assert_eq!((of_a, together.2.as_str()), (["OK", OVER], "OK"));
    assert_eq!(seen(&server, Some("a")).await, "OK", "what has ended is not in flight");
}

/// The first stage uses up the second's tokens: who has said that less will do keeps its order.
#[tokio::test]
async fn a_stage_that_is_refused_leaves_the_order_before_it_to_who_takes_less() {
    let stages = [Method::LateInteraction, Method::CrossEncoder];
    let stages = stages.map(|method| Stage { method: method.into(), ..Stage::default() }).to_vec();
    let asked = RerankRequest { stages, ..request("red", &["blue sand", "red sand"]) };
    let limited = || TenantConfig { tokens_per_second: 1, ..tenant("a", "a") };

    let server = serve(SCRIPT, vec![limited()]).await;
    let status = rerank(&server, Some("a"), asked.clone()).await.expect_err("all or nothing");
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "QUOTA_EXCEEDED"));

    let server = serve(SCRIPT, vec![limited()]).await;
    let budget = Some(Budget { pairs: 100, ..Budget::default() });
    let answer = rerank(&server, Some("a"), RerankRequest { budget, ..asked }).await.expect("the first stage's order");
    let places: Vec<(u32, u32)> = answer.results.iter().map(|result| (result.index, result.stage)).collect();
    assert_eq!(places, [(1, 1), (0, 1)]);
    assert_eq!(answer.partial_reasons().collect::<Vec<_>>(), [PartialReason::Overloaded]);
    assert!(answer.partial);
}
