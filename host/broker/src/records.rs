//! `hutch:host/records`: the content of the zone of a call. It was checked and put in order when the core made it, and pages are
//! bounded by it.

use hutch_driver::DriverError;
use hutch_driver::zone::Content;

use crate::error::internal;
use crate::{CallContext, Request, Response};

/// Does a `records` request.
pub(crate) fn call(cx: &CallContext, request: &Request) -> Result<Response, DriverError> {
    cx.subject.granter().records()?;
    let content: &Content = cx
        .call
        .records
        .as_deref()
        .ok_or_else(|| DriverError::new("not-found", "this call is not about the content of a zone"))?;
    match request {
        Request::RecordsVersion => Ok(Response::Version(content.version())),
        Request::RecordsPage { version, after, limit } => {
            let page = content.page(*version, after.as_ref(), *limit)?;
            Ok(Response::RecordSets(page.to_vec()))
        }
        Request::RecordsChanges { since } => Ok(Response::Changes(content.changes(*since))),
        other => Err(internal(format!("{} is not a function of records", other.function()))),
    }
}
