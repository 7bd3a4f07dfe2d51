//! `sysinfo(2)`: the container's figures instead of the machine's.

use hutch_sys::seccomp::notify::Answer;
use hutch_sys::sysinfo::Figures;

use super::Scene;
use super::target::{Step, Target, errno};

/// Writes the figures where the caller wants them.
pub(super) fn carry_out(scene: &Scene<'_>, target: &Target<'_>, address: u64, compat: bool) -> Step<Answer> {
    let machine = Figures::of_machine().map_err(|error| errno(error.raw_os_error().unwrap_or(libc::EFAULT)))?;
    let figures = figures(&machine, scene);
    let bytes = if compat { figures.compat() } else { figures.native() };
    target.write(address, &bytes)?;
    Ok(Answer::Value(0))
}

/// Those of the machine, but for the time since PID 1 began, the processes, and memory and swap where they are limited. What the
/// container has in the page cache counts as buffers: it is given back when something else needs the room.
fn figures(machine: &Figures, scene: &Scene<'_>) -> Figures {
    let used = scene.cgroup.used();
    let mut figures = *machine;
    figures.uptime = machine.uptime.saturating_sub(scene.booted);
    figures.processes = used.processes.unwrap_or(machine.processes);
    if let (Some(limit), Some(memory)) = (scene.limits.memory, used.memory) {
        let total = limit.min(machine.total_ram);
        figures.total_ram = total;
        figures.free_ram = total.saturating_sub(memory);
        figures.buffer_ram = used.cache.min(memory).saturating_sub(used.shared);
        figures.shared_ram = used.shared;
    }
    if let Some(limit) = scene.limits.swap {
        figures.total_swap = limit.min(machine.total_swap);
        figures.free_swap = figures.total_swap.saturating_sub(used.swap);
    }
    figures
}
