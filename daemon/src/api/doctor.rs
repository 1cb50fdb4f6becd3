//! `gantry.v1.Doctor`.

use futures_util::StreamExt;
use proto::gantry::v1::{ExamineRequest, ExamineResponse, doctor_server};
use tonic::{Request, Response, Status};

use super::{Reply, call, unscoped};
use crate::blocking;
use crate::doctor::Doctor;

/// The service.
#[derive(Debug, Clone)]
pub struct Service {
    doctor: Doctor,
}

impl Service {
    /// Examines what `doctor` knows.
    pub fn new(doctor: Doctor) -> Self {
        Self { doctor }
    }
}

#[tonic::async_trait]
impl doctor_server::Doctor for Service {
    type ExamineStream = Reply<ExamineResponse>;

    async fn examine(&self, request: Request<ExamineRequest>) -> Result<Response<Self::ExamineStream>, Status> {
        unscoped(request, async |request| {
            let doctor = self.doctor.clone();
            let found = blocking::search(move |found| doctor.examine(&request, &mut |what| found.give(what)));
            Ok(call::reply(found.map(|what| Ok(ExamineResponse { what: Some(what) }))))
        })
        .await
    }
}
