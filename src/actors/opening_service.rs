//! What a broker's port serves while the store is opened, and after: until the broker can answer, every request is
//! refused with how far recovery is. Clients take the code for a broker to pass over, and try again or elsewhere.

use std::sync::{Arc, OnceLock};

use super::connection::Service;
use super::request::{Reply, ReplyContent, Request};
use crate::error::Refusal;
use crate::store::recovery_progress::RecoveryProgress;

pub struct OpeningService {
    recovery: RecoveryProgress,
    /// Set once, when everything stored is readable.
    open: OnceLock<Arc<dyn Service>>,
}

impl OpeningService {
    pub fn new(recovery: RecoveryProgress) -> Self {
        Self { recovery, open: OnceLock::new() }
    }

    /// From now on `service` answers.
    pub fn open(&self, service: Arc<dyn Service>) {
        let set = self.open.set(service);
        debug_assert!(set.is_ok(), "a broker is opened once");
    }
}

impl Service for OpeningService {
    fn serve(&self, requests: &mut Vec<Request>, replies: &mut Vec<Reply>) {
        if let Some(service) = self.open.get() {
            return service.serve(requests, replies);
        }
        let percent = self.recovery.percent();
        replies.extend(requests.drain(..).map(|request| Reply {
            to: request.reply_to(),
            content: ReplyContent::Refused(Refusal::Recovering { percent }),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request_code::RequestCode;
    use crate::protocol::response_code::ResponseCode;
    use crate::testing::{fake_client, request};

    /// Takes every request without a word.
    struct Silent;

    impl Service for Silent {
        fn serve(&self, requests: &mut Vec<Request>, _: &mut Vec<Reply>) {
            requests.clear();
        }
    }

    #[actix::test]
    async fn requests_are_refused_with_the_percentage_until_the_broker_is_open() {
        let recovery = RecoveryProgress::default();
        recovery.begin(100);
        recovery.verified(86);
        let service = OpeningService::new(recovery);
        let (link, _client) = fake_client();
        let asked = || {
            vec![
                request(RequestCode::SEND_MESSAGE_V2).from(&link),
                request(RequestCode::PULL_MESSAGE).from(&link),
            ]
        };
        let mut replies = Vec::new();
        service.serve(&mut asked(), &mut replies);
        assert_eq!(replies.len(), 2);
        for reply in &replies {
            let ReplyContent::Refused(refusal) = &reply.content else { panic!("it is refused") };
            assert_eq!(refusal.code(), ResponseCode::SERVICE_NOT_AVAILABLE);
            assert!(refusal.to_string().starts_with("the broker is recovering, 43 %"), "{refusal}");
        }
        service.open(Arc::new(Silent));
        let mut requests = asked();
        service.serve(&mut requests, &mut replies);
        assert_eq!((requests.len(), replies.len()), (0, 2));
    }
}
