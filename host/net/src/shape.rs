//! How fast the host sends by an interface: a hierarchical token bucket (tc-htb(8)) of one class at the interface's root.

use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::handle::{Handle, check_name, get};
use crate::message::Message;
use crate::rtnl::{
    AF_UNSPEC, NLM_F_CREATE, NLM_F_EXCL, RTM_DELQDISC, RTM_NEWQDISC, RTM_NEWTCLASS, TC_H_ROOT, TC_LINKLAYER_ETHERNET,
    TCA_HTB_CEIL64, TCA_HTB_INIT, TCA_HTB_PARMS, TCA_HTB_RATE64, TCA_KIND, TCA_OPTIONS,
};

/// The slowest rate that is taken, in bits per second: below it one full packet takes longer than a TCP connection lives.
pub const LEAST_RATE: u64 = 1000;
/// The root's number, `1:0`, and that of its class, `1:10`, as tc(8) writes them.
const ROOT: u32 = 0x0001_0000;
const CLASS: u32 = 0x0001_0010;
/// `struct tc_htb_glob`: the version of the interface, and the divisor of rates that become quanta.
const HTB_VERSION: u32 = 3;
const RATE_TO_QUANTUM: u32 = 10;
/// Bytes that may be sent at once after a pause: one packet as large as segmentation offload makes them, or what comes in 10 ms.
const LEAST_BURST: u64 = 64 << 10;
const BURST_PARTS: u64 = 100;
/// Nanoseconds of one tick, in which times are given (`PSCHED_SHIFT` in `net/pkt_sched.h` is 6).
const TICK: u128 = 64;

impl Handle {
    /// Limits what the host sends by an interface to so many bits per second; `None` lifts the limit. A limit that is there already
    /// is replaced.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a rate below [`LEAST_RATE`]; [`Error::Kernel`], with `ENOENT` where the kernel
    /// has no such queueing discipline (`CONFIG_NET_SCH_HTB`).
    pub fn limit_sent(&self, name: &str, bits_per_second: Option<u64>) -> Result<()> {
        check_name(name)?;
        if let Some(rate) = bits_per_second.filter(|rate| *rate < LEAST_RATE) {
            return Err(Error::Invalid(format!(
                "{rate} bits per second are less than the {LEAST_RATE} that an interface can be limited to"
            )));
        }
        let mut socket = self.socket();
        let interface = get(&mut socket, name)?.ok_or_else(|| Error::NotFound { name: name.to_owned() })?;
        let index = interface.index.cast_signed();
        let lifted = socket.change(RTM_DELQDISC, 0, |kind, flags| {
            Message::new(kind, flags, &tcmsg(index, 0, TC_H_ROOT))
        });
        match lifted {
            // The interface has the kernel's own default, which can't be deleted: nothing limits it.
            Ok(()) | Err(Errno::NOENT | Errno::INVAL) => {}
            Err(e) => return Err(Error::kernel(format!("lift the limit of {name}"), e)),
        }
        let Some(rate) = bits_per_second else { return Ok(()) };
        let failed = |e| {
            Error::kernel(
                format!("limit what is sent by {name} (this takes the kernel's sch_htb)"),
                e,
            )
        };
        let made = socket.change(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, |kind, flags| {
            let mut message = Message::new(kind, flags, &tcmsg(index, ROOT, TC_H_ROOT));
            message.text(TCA_KIND, "htb");
            let options = message.open(TCA_OPTIONS);
            // What belongs to no other class, which is everything, goes to this one.
            message.attribute(
                TCA_HTB_INIT,
                &words(&[HTB_VERSION, RATE_TO_QUANTUM, CLASS & 0xffff, 0, 0]),
            );
            message.close(&options);
            message
        });
        made.map_err(failed)?;
        let made = socket.change(RTM_NEWTCLASS, NLM_F_CREATE | NLM_F_EXCL, |kind, flags| {
            let mut message = Message::new(kind, flags, &tcmsg(index, CLASS, ROOT));
            message.text(TCA_KIND, "htb");
            let options = message.open(TCA_OPTIONS);
            let bytes = rate / 8;
            message.attribute(TCA_HTB_PARMS, &parameters(bytes));
            if u32::try_from(bytes).is_err() {
                message.attribute(TCA_HTB_RATE64, &bytes.to_ne_bytes());
                message.attribute(TCA_HTB_CEIL64, &bytes.to_ne_bytes());
            }
            message.close(&options);
            message
        });
        made.map_err(failed)
    }
}

/// `struct tcmsg` of `linux/rtnetlink.h`.
fn tcmsg(index: i32, handle: u32, parent: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0] = AF_UNSPEC;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..12].copy_from_slice(&handle.to_ne_bytes());
    bytes[12..16].copy_from_slice(&parent.to_ne_bytes());
    bytes
}

/// `struct tc_htb_opt` of `linux/pkt_sched.h`: the rate twice, as what is assured and what is borrowed up to, and the time that a
/// burst takes.
fn parameters(bytes_per_second: u64) -> Vec<u8> {
    let burst = LEAST_BURST.max(bytes_per_second / BURST_PARTS);
    let ticks = u128::from(burst) * 1_000_000_000 / u128::from(bytes_per_second.max(1)) / TICK;
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
    let rate = rate_specification(bytes_per_second);
    let quantum = u32::try_from(LEAST_BURST).unwrap_or(u32::MAX);
    [&rate[..], &rate, &words(&[ticks, ticks, quantum, 0, 0])].concat()
}

/// `struct tc_ratespec`. The link layer is named, so that the kernel takes the rate as it is and asks for no table of times.
fn rate_specification(bytes_per_second: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[1] = TC_LINKLAYER_ETHERNET;
    let rate = u32::try_from(bytes_per_second).unwrap_or(u32::MAX);
    bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_sizes() {
        assert_eq!(parameters(1_000_000).len(), 44);
        assert_eq!(tcmsg(7, ROOT, TC_H_ROOT)[12..16], u32::MAX.to_ne_bytes());
        // 64 KiB at 1 MB/s are 65.536 ms.
        assert_eq!(parameters(1_000_000)[24..28], 1_024_000_u32.to_ne_bytes());
        // As slow as it goes a burst takes longer than can be said, and is said to take as long as can be.
        assert_eq!(parameters(LEAST_RATE / 8)[24..28], u32::MAX.to_ne_bytes());
        assert_eq!(rate_specification(u64::MAX)[8..12], u32::MAX.to_ne_bytes());
    }
}
