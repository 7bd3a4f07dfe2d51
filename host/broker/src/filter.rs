//! `hutch:host/filter`: packet filter tables of the call's object.

use hutch_driver::DriverError;
use hutch_net::nft::Table;

use crate::error::{internal, invalid};
use crate::host::check_name;
use crate::link::driver_error;
use crate::{CallContext, Request, Response};

/// Tables of this daemon's, of which there may be others on the machine.
#[derive(Debug)]
pub(crate) struct Tables {
    prefix: String,
}

impl Tables {
    /// Tables of the daemon that goes by `state_id`.
    pub(crate) fn new(state_id: &str) -> Self {
        Self {
            prefix: format!("hutch_{state_id}"),
        }
    }

    /// Does a `filter` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        cx.subject.granter().filter()?;
        let done = match request {
            Request::FilterReplaceTable { name, family, ruleset } => {
                self.table(cx, &name, &family)?.replace(&ruleset).await
            }
            Request::FilterChangeElements {
                name,
                family,
                set,
                add,
                remove,
            } => {
                check_name("the set", &set)?;
                self.table(cx, &name, &family)?
                    .change_elements(&set, &add, &remove)
                    .await
            }
            Request::FilterDeleteTable { name, family } => self.table(cx, &name, &family)?.delete().await,
            other => return Err(internal(format!("{} is not a function of filter", other.function()))),
        };
        done.map(|()| Response::Unit).map_err(|e| driver_error(&e))
    }

    /// The name has everything in it that makes the owner: none of the parts can hold the separator.
    fn table(&self, cx: &CallContext, name: &str, family: &str) -> Result<Table, DriverError> {
        let parts = [
            ("the family", &cx.subject.family),
            ("the project", &cx.call.project),
            ("the object", &cx.call.object),
        ];
        for (what, part) in parts {
            check_name(what, part)?;
        }
        check_name("the table", name)?;
        let full = format!(
            "{}/{}/{}/{}/{name}",
            self.prefix, cx.subject.family, cx.call.project, cx.call.object
        );
        Table::new(family, full).map_err(|e| invalid(e.to_string()))
    }
}
