//! `hutch:host/link`: interfaces of the call's objects.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::str::FromStr;
use std::sync::Arc;

use hutch_driver::DriverError;
use hutch_net::{Handle, MacAddress, Macvlan, MacvlanMode, Prefix, Veth, sysctl};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use crate::error::{code_of, internal, invalid};
use crate::fs::tree::blocking;
use crate::{CallContext, LinkInfo, Request, Response};

/// Most addresses of one interface.
const MAX_ADDRESSES: usize = 256;

/// Interfaces of the namespace in which the daemon runs.
#[derive(Debug)]
pub(crate) struct Links {
    handle: Arc<Handle>,
}

impl Links {
    /// Opens the socket over which everything goes.
    ///
    /// # Errors
    /// `io` where there is no room for one.
    pub(crate) fn open() -> Result<Self, DriverError> {
        Ok(Self {
            handle: Arc::new(Handle::open().map_err(|e| driver_error(&e))?),
        })
    }

    /// Does a `link` request.
    pub(crate) async fn call(&self, cx: &CallContext, request: Request) -> Result<Response, DriverError> {
        cx.subject.granter().link()?;
        match request {
            Request::LinkEnsureBridge { name, hwaddr, mtu } => {
                own(cx, &name)?;
                let hwaddr = hwaddr.as_deref().map(parse::<MacAddress>).transpose()?;
                self.on(move |handle| handle.ensure_bridge(&name, hwaddr, mtu))
                    .await
                    .map(unit)
            }
            Request::LinkEnsureVeth { .. } => self.ensure_veth(cx, request).await.map(unit),
            Request::LinkEnsureMacvlan { .. } => self.ensure_macvlan(cx, request).await.map(unit),
            Request::LinkDeleteMacvlan {
                netns,
                guest_name,
                hwaddr,
            } => {
                let netns = namespace(cx, &netns)?;
                let hwaddr = parse::<MacAddress>(&hwaddr)?;
                self.on(move |handle| handle.delete_macvlan(netns.as_fd(), &guest_name, hwaddr))
                    .await
                    .map(unit)
            }
            Request::LinkDelete { name } => {
                own(cx, &name)?;
                self.on(move |handle| handle.delete(&name)).await.map(unit)
            }
            Request::LinkGet { name } => {
                own(cx, &name).or_else(|refusal| parent(cx, &name).map_err(|_| refusal))?;
                self.on(move |handle| get(handle, &name)).await.map(Response::LinkInfo)
            }
            Request::LinkSetAddresses { name, addresses } => {
                own(cx, &name)?;
                if addresses.len() > MAX_ADDRESSES {
                    return Err(DriverError::new(
                        "limit",
                        format!("{} addresses for {name}: at most {MAX_ADDRESSES}", addresses.len()),
                    ));
                }
                let addresses = addresses
                    .iter()
                    .map(|text| parse::<Prefix>(text))
                    .collect::<Result<Vec<_>, _>>()?;
                self.on(move |handle| handle.set_addresses(&name, &addresses))
                    .await
                    .map(unit)
            }
            Request::LinkSetUp { name, up } => {
                own(cx, &name)?;
                self.on(move |handle| handle.set_up(&name, up)).await.map(unit)
            }
            Request::LinkSetOptions { name, options } => {
                own(cx, &name)?;
                let settings = Settings::read(&options)?;
                self.on(move |handle| settings.apply(handle, &name)).await.map(unit)
            }
            Request::LinkLimitSent { name, bits_per_second } => {
                own(cx, &name)?;
                self.on(move |handle| handle.limit_sent(&name, bits_per_second))
                    .await
                    .map(unit)
            }
            Request::LinkSubnetsInUse => {
                let subnets = self.on(|handle| handle.subnets_in_use()).await?;
                Ok(Response::Strings(subnets.iter().map(ToString::to_string).collect()))
            }
            other => Err(internal(format!("{} is not a function of link", other.function()))),
        }
    }

    async fn ensure_veth(&self, cx: &CallContext, request: Request) -> Result<(), DriverError> {
        let Request::LinkEnsureVeth {
            name,
            bridge,
            netns,
            guest_name,
            hwaddr,
            mtu,
            options,
        } = request
        else {
            return Err(internal("not a request for a pair"));
        };
        own(cx, &name)?;
        if let Some(bridge) = &bridge {
            own(cx, bridge)?;
        }
        let netns = namespace(cx, &netns)?;
        let hwaddr = parse::<MacAddress>(&hwaddr)?;
        let settings = Settings::read(&options)?;
        self.on(move |handle| {
            let (bridge, guest_name) = (bridge.as_deref(), guest_name.as_str());
            handle.ensure_veth(&Veth {
                name: &name,
                bridge,
                netns: netns.as_fd(),
                guest_name,
                hwaddr,
                mtu,
            })?;
            settings.apply(handle, &name)
        })
        .await
    }

    async fn ensure_macvlan(&self, cx: &CallContext, request: Request) -> Result<(), DriverError> {
        let Request::LinkEnsureMacvlan {
            parent: name,
            netns,
            guest_name,
            hwaddr,
            mode,
            mtu,
        } = request
        else {
            return Err(internal("not a request for a macvlan"));
        };
        parent(cx, &name)?;
        let netns = namespace(cx, &netns)?;
        let hwaddr = parse::<MacAddress>(&hwaddr)?;
        let mode = mode.parse::<MacvlanMode>().map_err(|e| driver_error(&e))?;
        self.on(move |handle| {
            handle.ensure_macvlan(&Macvlan {
                parent: &name,
                netns: netns.as_fd(),
                guest_name: &guest_name,
                hwaddr,
                mode,
                mtu,
            })
        })
        .await
    }

    async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Handle) -> hutch_net::Result<T> + Send + 'static,
    ) -> Result<T, DriverError> {
        let handle = Arc::clone(&self.handle);
        blocking(move || work(&handle).map_err(|e| driver_error(&e))).await
    }
}

fn unit((): ()) -> Response {
    Response::Unit
}

/// Refuses an interface that is not one of the call's object.
fn own(cx: &CallContext, name: &str) -> Result<(), DriverError> {
    if cx.call.links.iter().any(|link| link == name) {
        return Ok(());
    }
    Err(DriverError::new(
        "not-granted",
        format!(
            "the interface {name:?} is not one of {:?}: only those of the object that a call is for may be touched",
            cx.call.object
        ),
    ))
}

/// Refuses an interface that the configuration of the call's object does not name as its parent.
fn parent(cx: &CallContext, name: &str) -> Result<(), DriverError> {
    if cx.call.parents.iter().any(|parent| parent == name) {
        return Ok(());
    }
    Err(DriverError::new(
        "not-granted",
        format!(
            "{:?} does not name {name:?} as its parent: only on an interface that whoever configured it named there may another be put",
            cx.call.object
        ),
    ))
}

/// A network namespace that came with the call.
fn namespace(cx: &CallContext, id: &str) -> Result<Arc<OwnedFd>, DriverError> {
    let handle = cx.call.netns.iter().find(|handle| handle.id == id);
    handle
        .map(|handle| Arc::clone(&handle.fd))
        .ok_or_else(|| DriverError::new("not-found", format!("this call has no network namespace {id:?}")))
}

fn parse<T: FromStr<Err = hutch_net::BadPrefix>>(text: &str) -> Result<T, DriverError> {
    text.parse().map_err(|e: hutch_net::BadPrefix| invalid(e.to_string()))
}

fn get(handle: &Handle, name: &str) -> hutch_net::Result<Option<LinkInfo>> {
    let Some(found) = handle.get(name)? else {
        return Ok(None);
    };
    let addresses = handle.addresses(found.index)?.iter().map(ToString::to_string).collect();
    let master = found.master.map(|index| handle.name_of(index)).transpose()?.flatten();
    Ok(Some(LinkInfo {
        name: found.name,
        kind: found.kind,
        hwaddr: found.hwaddr,
        mtu: found.mtu,
        up: found.up,
        master,
        addresses,
    }))
}

/// Settings of an interface, checked.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    /// Family, key below `/proc/sys/net/FAMILY/conf/NAME`, value.
    sysctls: Vec<(&'static str, &'static str, String)>,
    /// Families for which the machine has to forward, too.
    forward: Vec<&'static str>,
    isolated: Option<bool>,
    hairpin: Option<bool>,
}

impl Settings {
    /// Reads the keys that `wit/host` lists.
    fn read(options: &[(String, String)]) -> Result<Self, DriverError> {
        let mut settings = Self::default();
        let unique: BTreeMap<&str, &str> = options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        for (key, value) in unique {
            let wrong = || invalid(format!("the setting {key} of an interface can't be {value:?}"));
            let flag = || match value {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(wrong()),
            };
            let level = || match value {
                "0" | "1" | "2" => Ok(value.to_owned()),
                _ => flag().map(|on| u8::from(on).to_string()),
            };
            let number = |on: bool| u8::from(on).to_string();
            match key {
                "ipv4.forwarding" | "ipv6.forwarding" => {
                    let family = if key == "ipv4.forwarding" { "ipv4" } else { "ipv6" };
                    let on = flag()?;
                    if on {
                        settings.forward.push(family);
                    }
                    settings.sysctls.push((family, "forwarding", number(on)));
                }
                "ipv6.accept-ra" => settings.sysctls.push(("ipv6", "accept_ra", level()?)),
                "ipv6.accept-dad" => settings.sysctls.push(("ipv6", "accept_dad", level()?)),
                "ipv6.autoconf" => settings.sysctls.push(("ipv6", "autoconf", number(flag()?))),
                "ipv6.disable" => settings.sysctls.push(("ipv6", "disable_ipv6", number(flag()?))),
                "bridge.isolated" => settings.isolated = Some(flag()?),
                "bridge.hairpin" => settings.hairpin = Some(flag()?),
                _ => return Err(invalid(format!("{key:?} is not a setting of an interface"))),
            }
        }
        Ok(settings)
    }

    fn apply(&self, handle: &Handle, name: &str) -> hutch_net::Result<()> {
        for family in &self.forward {
            sysctl::enable_forwarding(family)?;
        }
        for (family, key, value) in &self.sysctls {
            sysctl::set(family, name, key, value)?;
        }
        if self.isolated.is_some() || self.hairpin.is_some() {
            handle.set_bridge_port(name, self.isolated, self.hairpin)?;
        }
        Ok(())
    }
}

/// What a driver is told of a failure of the network crate's.
pub(crate) fn driver_error(error: &hutch_net::Error) -> DriverError {
    use hutch_net::Error;
    let code = match error {
        Error::Kernel { source, .. } => code_of(*source),
        Error::WrongKind { .. } | Error::Taken { .. } => "already-exists",
        Error::NotFound { .. } => "not-found",
        Error::Invalid(_) => "invalid",
        Error::Filter(_) => "io",
        _ => "internal",
    };
    let cause = std::error::Error::source(error)
        .map(|cause| format!(": {cause}"))
        .unwrap_or_default();
    let mut failure = DriverError::new(code, format!("{error}{cause}"));
    failure.retryable = matches!(
        error.errno(),
        Some(Errno::BUSY | Errno::AGAIN | Errno::INTR | Errno::NOBUFS)
    );
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &[(&str, &str)]) -> Result<Settings, DriverError> {
        Settings::read(
            &options
                .iter()
                .map(|&(k, v)| (k.to_owned(), v.to_owned()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn settings_are_those_of_the_interface_description() {
        let settings = read(&[
            ("ipv6.forwarding", "true"),
            ("ipv6.accept-ra", "2"),
            ("bridge.isolated", "false"),
        ])
        .unwrap();
        assert_eq!(settings.forward, ["ipv6"]);
        assert_eq!(
            settings.sysctls,
            [
                ("ipv6", "accept_ra", "2".to_owned()),
                ("ipv6", "forwarding", "1".to_owned())
            ]
        );
        assert_eq!((settings.isolated, settings.hairpin), (Some(false), None));
        for bad in [
            ("ipv6.disable", "2"),
            ("ipv6.accept-ra", "3"),
            ("ipv4.rp_filter", "1"),
            ("", ""),
            ("ipv6.accept-ra", "1\n"),
        ] {
            assert_eq!(read(&[bad]).unwrap_err().code, "invalid", "{bad:?}");
        }
    }
}
