//! A network of a case's own, instances to be connected to it, and the driver's calls with their names.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use hutch_driver::network::{Lease, NetworkDriver, NetworkRef, NicRef};
use hutch_driver::{Call, NetnsHandle, Options};
use hutch_net::NetnsProbe;
use rustix::thread::UnshareFlags;

use crate::Stand;
use crate::case::{Answer, Outcome, Stop, ensure, named};

/// What may not be left when a network is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Surroundings {
    /// Names of interfaces.
    links: BTreeSet<String>,
    /// Packet filter tables, where the driver may make some.
    tables: BTreeSet<String>,
    /// Processes of the programs that the driver may keep running.
    services: usize,
}

impl Surroundings {
    /// What there is now.
    pub(super) fn now(stand: &Stand) -> Outcome<Self> {
        Ok(Self {
            links: NetnsProbe::here()
                .and_then(|mut probe| probe.interfaces())
                .map_err(|error| system("list the interfaces", &error))?
                .into_iter()
                .map(|interface| interface.name)
                .collect(),
            tables: if stand.permissions.filter {
                tables()?
            } else {
                BTreeSet::new()
            },
            services: services(&stand.permissions.service)?,
        })
    }

    /// Fails unless all is as it was.
    pub(super) fn unchanged(&self, stand: &Stand, when: &str) -> Outcome {
        let now = Self::now(stand)?;
        ensure(*self == now, || format!("{when}: {self:?} became {now:?}"))
    }
}

fn system(doing: &str, error: &dyn std::fmt::Display) -> Stop {
    Stop::Fail(format!("can't {doing}: {error}"))
}

fn tables() -> Outcome<BTreeSet<String>> {
    let output = std::process::Command::new("nft")
        .args(["list", "tables"])
        .output()
        .map_err(|error| system("run nft", &error))?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// How many processes run one of `programs`. The runner has a process namespace of its own.
fn services(programs: &[String]) -> Outcome<usize> {
    let entries = std::fs::read_dir("/proc").map_err(|error| system("list processes", &error))?;
    let names = entries
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok());
    // The kernel keeps the first 15 bytes of a name (PR_SET_NAME(2const)).
    let is_one = |name: &str| {
        programs
            .iter()
            .any(|program| program.chars().take(15).eq(name.trim_end().chars()))
    };
    Ok(names.filter(|name| is_one(name)).count())
}

/// An instance's network namespace, for as long as this is kept.
pub(super) struct Guest {
    handle: NetnsHandle,
}

impl Guest {
    /// A namespace with loopback alone.
    pub(super) fn new(stand: &Stand) -> Outcome<Self> {
        let thread = std::thread::spawn(|| -> std::io::Result<File> {
            #[allow(
                deprecated,
                reason = "the safe form: the flag that its successor is unsafe for is not used here"
            )]
            rustix::thread::unshare(UnshareFlags::NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let made = thread
            .join()
            .map_err(|_| Stop::Fail("a thread ended early".to_owned()))?;
        let fd = made.map_err(|error| system("make a network namespace", &error))?;
        Ok(Self {
            handle: NetnsHandle {
                id: format!("guest{}", stand.number()),
                fd: Arc::new(fd.into()),
            },
        })
    }

    /// The interface of this name in there: its hardware address.
    pub(super) fn interface(&self, name: &str) -> Outcome<Option<String>> {
        let mut probe =
            NetnsProbe::open(self.handle.fd.as_fd()).map_err(|error| system("look into a namespace", &error))?;
        let interfaces = probe
            .interfaces()
            .map_err(|error| system("look into a namespace", &error))?;
        Ok(interfaces
            .into_iter()
            .find(|interface| interface.name == name)
            .map(|interface| interface.hwaddr))
    }
}

/// See the module's documentation.
pub(super) struct Net {
    driver: Arc<dyn NetworkDriver>,
    pub(super) network: NetworkRef,
}

impl Net {
    /// A network that was not started, with the configuration that the driver completed.
    pub(super) async fn fresh(stand: &Stand) -> Outcome<Self> {
        let name = format!("ctest{}", stand.number());
        Self::called(stand, &name).await
    }

    /// The same with a name.
    pub(super) async fn called(stand: &Stand, name: &str) -> Outcome<Self> {
        let driver = stand
            .drivers
            .network(&stand.name)
            .map_err(|error| Stop::Fail(format!("the driver can't be called: {error}")))?;
        let network = NetworkRef {
            project: "default".to_owned(),
            name: name.to_owned(),
            config: stand.options.clone(),
        };
        let mut net = Self { driver, network };
        net.network.config = net.validate(&stand.options, None).await?;
        Ok(net)
    }

    /// A network that was started.
    pub(super) async fn started(stand: &Stand) -> Outcome<Self> {
        let net = Self::fresh(stand).await?;
        net.start().await?;
        Ok(net)
    }

    /// An interface of the instance `instance`, to be put into `guest`; without one where the instance has ended.
    pub(super) fn nic(&self, stand: &Stand, instance: &str, guest: Option<&Guest>) -> NicRef {
        let number = stand.number();
        NicRef {
            project: "default".to_owned(),
            instance: instance.to_owned(),
            device: "eth0".to_owned(),
            host_name: format!("veth{number:08x}"),
            guest_name: "eth0".to_owned(),
            hwaddr: format!("00:16:3e:00:{:02x}:{:02x}", (number >> 8) & 0xff, number & 0xff),
            netns: guest.map(|guest| guest.handle.id.clone()).unwrap_or_default(),
            config: Options::new(),
        }
    }

    fn call(&self, nics: &[&NicRef], guest: Option<&Guest>) -> Call {
        let mut call = Call::new(&self.network.project, &self.network.name);
        call.links.push(self.network.name.clone());
        // As the core does: on the interface that the configuration names, instances may be put.
        call.parents.extend(self.network.config.get("parent").cloned());
        call.links.extend(nics.iter().map(|nic| nic.host_name.clone()));
        call.netns.extend(guest.map(|guest| guest.handle.clone()));
        call
    }

    pub(super) async fn validate(&self, config: &Options, current: Option<&Options>) -> Answer<Options> {
        let wanted = NetworkRef {
            config: config.clone(),
            ..self.network.clone()
        };
        let answer = self.driver.validate(&self.call(&[], None), &wanted, current).await;
        named(answer, || format!("network.validate({config:?})"))
    }

    pub(super) async fn start(&self) -> Answer {
        let answer = self.driver.start(&self.call(&[], None), &self.network).await;
        named(answer, || format!("network.start({})", self.network.name))
    }

    pub(super) async fn update(&self, old: &Options) -> Answer {
        let answer = self.driver.update(&self.call(&[], None), &self.network, old).await;
        named(answer, || format!("network.update({})", self.network.name))
    }

    pub(super) async fn stop(&self) -> Answer {
        let answer = self.driver.stop(&self.call(&[], None), &self.network).await;
        named(answer, || format!("network.stop({})", self.network.name))
    }

    pub(super) async fn reconcile(&self, nics: &[NicRef]) -> Answer<Vec<String>> {
        let call = self.call(&nics.iter().collect::<Vec<_>>(), None);
        let answer = self.driver.reconcile(&call, &self.network, nics).await;
        named(answer, || format!("network.reconcile({})", self.network.name))
    }

    pub(super) async fn validate_nic(&self, config: &Options) -> Answer {
        let answer = self
            .driver
            .validate_nic(&self.call(&[], None), &self.network, config)
            .await;
        named(answer, || format!("nic.validate({config:?})"))
    }

    pub(super) async fn attach(&self, nic: &NicRef, guest: &Guest) -> Answer {
        let answer = self
            .driver
            .attach(&self.call(&[nic], Some(guest)), &self.network, nic)
            .await;
        named(answer, || format!("nic.attach({})", nic.instance))
    }

    /// `guest` where the instance still runs.
    pub(super) async fn detach(&self, nic: &NicRef, guest: Option<&Guest>) -> Answer {
        let gone = NicRef {
            netns: guest.map(|guest| guest.handle.id.clone()).unwrap_or_default(),
            ..nic.clone()
        };
        let answer = self
            .driver
            .detach(&self.call(&[nic], guest), &self.network, &gone)
            .await;
        named(answer, || format!("nic.detach({})", nic.instance))
    }

    pub(super) async fn leases(&self, nics: &[NicRef]) -> Answer<Vec<Lease>> {
        let call = self.call(&nics.iter().collect::<Vec<_>>(), None);
        let answer = self.driver.leases(&call, &self.network, nics).await;
        named(answer, || format!("lease.leases({})", self.network.name))
    }

    /// Connects a new instance.
    pub(super) async fn connect(&self, stand: &Stand, instance: &str) -> Outcome<(NicRef, Guest)> {
        let guest = Guest::new(stand)?;
        let nic = self.nic(stand, instance, Some(&guest));
        self.attach(&nic, &guest).await?;
        connected(&nic, &guest, "after it was attached")?;
        Ok((nic, guest))
    }

    /// Shows that an instance can be connected and disconnected, which is what a network is for.
    pub(super) async fn works(&self, stand: &Stand, when: &str) -> Outcome {
        let (nic, guest) = self
            .connect(stand, "probe")
            .await
            .map_err(|stop| Stop::Fail(format!("{when}: {stop}")))?;
        self.detach(&nic, Some(&guest)).await?;
        Ok(())
    }
}

/// Fails unless the interface is in the instance, with its name and hardware address.
pub(super) fn connected(nic: &NicRef, guest: &Guest, when: &str) -> Outcome {
    let found = guest.interface(&nic.guest_name)?;
    ensure(found.as_deref() == Some(nic.hwaddr.as_str()), || {
        let name = &nic.guest_name;
        match found {
            None => format!("{when}: the instance has no interface {name}"),
            Some(hwaddr) => format!(
                "{when}: {name} of the instance has the address {hwaddr} and not {}",
                nic.hwaddr
            ),
        }
    })
}
