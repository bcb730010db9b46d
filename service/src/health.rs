//! `grpc.health.v1`: whether callers should send work here.
//!
//! Every service of a process stands or falls together: all are `NOT_SERVING` until the process says that
//! it is ready, and again from the moment it drains. [`LIVENESS`] alone is `SERVING` all along: a process
//! that is loading or draining must not be restarted for it.
//!
//! tonic-health has a reporter of its own, which says `SERVING` for the empty name from construction on,
//! refuses to watch a service that it does not know (the protocol wants `SERVICE_UNKNOWN`), and has no
//! means to end its watches, which would hold up every drain.

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use tokio::sync::watch;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

/// Name for a liveness probe to ask for: `SERVING` for as long as the process answers at all.
pub const LIVENESS: &str = "liveness";

/// Sets what the health service says.
#[derive(Clone, Debug)]
pub struct Health {
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NotServing,
    Serving,
    /// Not serving, and nobody needs to go on watching.
    Closed,
}

impl Health {
    /// Health of `services`, named as on the wire (`sluice.rerank.v1.RerankService`), and of the empty
    /// name, which stands for the whole process. None is serving yet.
    pub fn new(services: &[&'static str]) -> (Self, HealthServer<impl health_server::Health + use<>>) {
        let state = Arc::new(watch::Sender::new(State::NotServing));
        let services = services.iter().copied().chain([""]).collect();
        let server = HealthServer::new(Service { services, state: Arc::clone(&state) });
        (Self { state }, server)
    }

    /// Says that every service is serving, or that none is. Who asks next hears it, and so do all who
    /// watch. Has no effect once closed.
    pub fn set_serving(&self, serving: bool) {
        let next = if serving { State::Serving } else { State::NotServing };
        self.state.send_if_modified(|state| {
            let changes = *state != State::Closed && *state != next;
            if changes {
                *state = next;
            }
            changes
        });
    }

    /// Whether the services are said to be serving.
    pub fn is_serving(&self) -> bool {
        *self.state.borrow() == State::Serving
    }

    /// Says for good that no service is serving, and ends all watches: they would keep their connections
    /// open, and a server that drains waits for those.
    pub fn close(&self) {
        self.state.send_replace(State::Closed);
    }
}

/// Answers probes.
struct Service {
    services: BTreeSet<&'static str>,
    state: Arc<watch::Sender<State>>,
}

#[tonic::async_trait]
impl health_server::Health for Service {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.get_ref().service.as_str();
        if service == LIVENESS {
            return Ok(Response::new(response(ServingStatus::Serving)));
        }
        if !self.services.contains(service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(response(serving_status(*self.state.borrow()))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.get_ref().service.as_str();
        let fixed = match service {
            LIVENESS => Some(ServingStatus::Serving),
            known if self.services.contains(known) => None,
            _ => Some(ServingStatus::ServiceUnknown),
        };
        let mut last = None;
        let statuses = WatchStream::new(self.state.subscribe())
            .take_while(|state| *state != State::Closed)
            .map(move |state| fixed.unwrap_or_else(|| serving_status(state)))
            .filter(move |status| last.replace(*status) != Some(*status))
            .map(|status| Ok(response(status)));
        Ok(Response::new(Box::pin(statuses)))
    }
}

fn serving_status(state: State) -> ServingStatus {
    match state {
        State::Serving => ServingStatus::Serving,
        State::NotServing | State::Closed => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use health_server::Health as _;

    use super::*;

    const RERANK: &str = "sluice.rerank.v1.RerankService";

    fn service() -> (Health, Service) {
        let state = Arc::new(watch::Sender::new(State::NotServing));
        (Health { state: Arc::clone(&state) }, Service { services: BTreeSet::from(["", RERANK]), state })
    }

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.into() })
    }

    async fn check(service: &Service, name: &str) -> Result<ServingStatus, tonic::Code> {
        let response = service.check(request(name)).await;
        response.map(|response| response.get_ref().status()).map_err(|status| status.code())
    }

    async fn watch(service: &Service, name: &str) -> <Service as health_server::Health>::WatchStream {
        service.watch(request(name)).await.unwrap().into_inner()
    }

    async fn next(stream: &mut <Service as health_server::Health>::WatchStream) -> Option<ServingStatus> {
        stream.next().await.map(|response| response.unwrap().status())
    }

    #[tokio::test]
    async fn nothing_serves_until_it_is_said() {
        let (health, service) = service();
        for (serving, expected) in [
            (None, ServingStatus::NotServing),
            (Some(true), ServingStatus::Serving),
            (Some(false), ServingStatus::NotServing),
        ] {
            if let Some(serving) = serving {
                health.set_serving(serving);
            }
            assert_eq!(health.is_serving(), expected == ServingStatus::Serving);
            assert_eq!(check(&service, "").await, Ok(expected));
            assert_eq!(check(&service, RERANK).await, Ok(expected));
            assert_eq!(check(&service, LIVENESS).await, Ok(ServingStatus::Serving));
            assert_eq!(check(&service, "other").await, Err(tonic::Code::NotFound));
        }
    }

    #[tokio::test]
    async fn a_watch_sees_the_flips_and_ends_when_closed() {
        let (health, service) = service();
        let mut all = watch(&service, "").await;
        let mut unknown = watch(&service, "other").await;
        let mut liveness = watch(&service, LIVENESS).await;
        assert_eq!(next(&mut all).await, Some(ServingStatus::NotServing));
        assert_eq!(next(&mut unknown).await, Some(ServingStatus::ServiceUnknown));
        assert_eq!(next(&mut liveness).await, Some(ServingStatus::Serving));
        health.set_serving(true);
        assert_eq!(next(&mut all).await, Some(ServingStatus::Serving));
        health.set_serving(false);
        assert_eq!(next(&mut all).await, Some(ServingStatus::NotServing));

        health.close();
        for stream in [&mut all, &mut unknown, &mut liveness] {
            assert_eq!(next(stream).await, None, "nothing changed but that it is over");
        }
        health.set_serving(true);
        assert_eq!(check(&service, RERANK).await, Ok(ServingStatus::NotServing), "closed is for good");
    }
}
