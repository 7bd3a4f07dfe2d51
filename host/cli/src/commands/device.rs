//! `config device` and `profile device`.

use clap::Subcommand;
use hutch_api::Devices;
use hutch_api::instance::Instance;

use crate::client::ApiPath;
use crate::context::{Context, Target};
use crate::error::{Error, Result};
use crate::keyvalue;
use crate::object::{Place, WithDevices};
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum DeviceCommand {
    /// Add a device
    Add {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
        /// The device's name
        device: String,
        /// Its type, such as disk or nic
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Its keys
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Remove devices
    #[command(alias = "rm")]
    Remove {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
        /// The devices' names
        #[arg(required = true)]
        device: Vec<String>,
    },
    /// List devices
    #[command(alias = "ls")]
    List {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
    },
    /// Show devices
    Show {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
    },
    /// Print a key of a device
    Get {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
        /// The device's name
        device: String,
        /// The key
        key: String,
    },
    /// Set keys of a device
    Set {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
        /// The device's name
        device: String,
        /// The keys
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Remove a key of a device
    Unset {
        /// The instance or profile
        #[arg(value_name = "[REMOTE:]NAME")]
        owner: String,
        /// The device's name
        device: String,
        /// The key
        key: String,
    },
    /// Copy a profile's device to the instance, and set keys of the copy
    Override {
        /// The instance
        #[arg(value_name = "[REMOTE:]INSTANCE")]
        owner: String,
        /// The device's name
        device: String,
        /// The keys
        #[arg(value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
}

impl DeviceCommand {
    fn owner(&self) -> &str {
        match self {
            Self::Add { owner, .. }
            | Self::Remove { owner, .. }
            | Self::List { owner }
            | Self::Show { owner }
            | Self::Get { owner, .. }
            | Self::Set { owner, .. }
            | Self::Unset { owner, .. }
            | Self::Override { owner, .. } => owner,
        }
    }

    /// On an instance.
    pub(crate) async fn on_instance(self, ctx: &Context) -> Result<()> {
        let Target { client, name } = ctx.named(self.owner())?;
        let place = Place {
            client: &client,
            path: ApiPath::new(["instances", &name]),
            name: &name,
        };
        if let Self::Override { device, settings, .. } = self {
            return override_device(ctx, &place, &device, &settings).await;
        }
        self.on::<Instance>(ctx, &place).await
    }

    /// On an object that is found at `collection`.
    pub(crate) async fn on_other<T: WithDevices>(self, ctx: &Context, collection: &str) -> Result<()> {
        let Target { client, name } = ctx.named(self.owner())?;
        let place = Place {
            client: &client,
            path: ApiPath::new([collection, &name]),
            name: &name,
        };
        if matches!(self, Self::Override { .. }) {
            return Err(Error::usage("only an instance's devices override those of profiles"));
        }
        self.on::<T>(ctx, &place).await
    }

    async fn on<T: WithDevices>(self, ctx: &Context, place: &Place<'_>) -> Result<()> {
        match self {
            Self::Add {
                device, kind, settings, ..
            } => {
                let mut keys = keyvalue::pairs(&settings)?;
                keys.insert("type".into(), kind);
                change::<T>(place, |devices| {
                    if devices.contains_key(&device) {
                        return Err(Error::usage(format!("{} has a device {device} already", place.name)));
                    }
                    devices.insert(device.clone(), keys);
                    Ok(())
                })
                .await?;
                ctx.say(&format!("Device {device} added to {}", place.name))
            }
            Self::Remove { device, .. } => {
                change::<T>(place, |devices| {
                    device.iter().try_for_each(|name| match devices.remove(name) {
                        Some(_) => Ok(()),
                        None => Err(absent(place.name, name)),
                    })
                })
                .await?;
                ctx.say(&format!("Device {} removed from {}", device.join(", "), place.name))
            }
            Self::Set { device, settings, .. } => {
                let settings = keyvalue::settings(&settings)?;
                change::<T>(place, |devices| {
                    devices
                        .get_mut(&device)
                        .ok_or_else(|| absent(place.name, &device))?
                        .extend(settings);
                    Ok(())
                })
                .await
            }
            Self::Unset { device, key, .. } => {
                change::<T>(place, |devices| {
                    let keys = devices.get_mut(&device).ok_or_else(|| absent(place.name, &device))?;
                    let unset = || Error::usage(format!("{key} of the device {device} is not set"));
                    keys.remove(&key).map(drop).ok_or_else(unset)
                })
                .await
            }
            Self::Get { device, key, .. } => {
                let devices = own_devices::<T>(place).await?;
                let keys = devices.get(&device).ok_or_else(|| absent(place.name, &device))?;
                output::print_line(keys.get(&key).map_or("", String::as_str))
            }
            Self::Show { .. } => output::print_yaml(&own_devices::<T>(place).await?),
            Self::List { .. } => own_devices::<T>(place)
                .await?
                .keys()
                .try_for_each(|name| output::print_line(name)),
            // Its callers have dealt with it.
            Self::Override { .. } => Ok(()),
        }
    }
}

async fn own_devices<T: WithDevices>(place: &Place<'_>) -> Result<Devices> {
    let mut put = place.get::<T>().await?.to_put();
    Ok(std::mem::take(T::devices(&mut put)))
}

async fn change<T: WithDevices>(place: &Place<'_>, change: impl FnOnce(&mut Devices) -> Result<()>) -> Result<()> {
    place.modify::<T>(|_, put| change(T::devices(put))).await
}

fn absent(owner: &str, device: &str) -> Error {
    Error::usage(format!("{owner} has no device {device} of its own"))
}

async fn override_device(ctx: &Context, place: &Place<'_>, device: &str, settings: &[String]) -> Result<()> {
    let settings = keyvalue::pairs(settings)?;
    place
        .modify::<Instance>(|instance, put| {
            if put.devices.contains_key(device) {
                return Err(Error::usage(format!(
                    "{} has a device {device} of its own already",
                    place.name
                )));
            }
            let inherited = instance
                .expanded_devices
                .get(device)
                .ok_or_else(|| Error::usage(format!("no profile of {} has a device {device}", place.name)))?;
            let mut keys = inherited.clone();
            keys.extend(settings);
            put.devices.insert(device.to_owned(), keys);
            Ok(())
        })
        .await?;
    ctx.say(&format!("Device {device} overridden for {}", place.name))
}
