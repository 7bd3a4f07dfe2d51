//! Makes system calls as a hostile program in a container would, for the tests of those that the keeper answers. It ends with an error where a
//! call comes to something else than it should.
#![allow(unsafe_code, reason = "it makes system calls as a hostile program would")]
#![allow(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("attributes") => attributes(),
        Some("sysinfo") => sysinfo(),
        Some("hostile") => hostile(),
        Some("stuck") => stuck(),
        other => panic!("{other:?} is none of attributes, sysinfo, hostile and stuck"),
    }
}

/// Attributes, from inside.
fn attributes() {
    use rustix::fs::{XattrFlags, fsetxattr, lsetxattr, setxattr};
    const NAME: &str = "trusted.overlay.opaque";
    let none = XattrFlags::empty();
    setxattr("/tmp/link", NAME, b"y", none).unwrap();
    lsetxattr("/tmp/e", NAME, b"y", none).unwrap();
    fsetxattr(std::fs::File::open("/tmp/f").unwrap(), NAME, b"y", none).unwrap();
    assert_eq!(
        setxattr("/tmp/d", NAME, b"y", XattrFlags::CREATE),
        Err(rustix::io::Errno::EXIST)
    );
    let refused = Err(rustix::io::Errno::PERM);
    assert_eq!(lsetxattr("/tmp/link", NAME, b"y", none), refused);
    assert_eq!(setxattr("/tmp/file", NAME, b"y", none), refused);
    assert_eq!(setxattr("/tmp/d", NAME, b"x", none), refused);
    assert_eq!(setxattr("/tmp/d", "trusted.overlay.redirect", b"y", none), refused);
    assert_eq!(setxattr("/tmp/d", "trusted.other", b"y", none), refused);
    // The machine's own files.
    assert!(setxattr("/host/bin", NAME, b"y", none).is_err());
    // What needs no help goes on as ever.
    setxattr("/tmp/d", "user.x", b"1", none).unwrap();
    assert_eq!(setxattr("/nowhere", NAME, b"y", none), Err(rustix::io::Errno::NOENT));
}

/// Figures, from inside.
fn sysinfo() {
    let figures = hutch_sys::sysinfo::Figures::of_machine().unwrap();
    assert_eq!(figures.total_ram, 96 << 20);
    assert!(
        figures.free_ram > 0 && figures.free_ram < figures.total_ram,
        "{figures:?}"
    );
    assert!(
        figures.uptime < 60 && (1..50).contains(&figures.processes),
        "{figures:?}"
    );
    // SAFETY: the address is nobody's; the kernel is to say so.
    assert_eq!(unsafe { libc::syscall(libc::SYS_sysinfo, 8) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EFAULT));
}

/// Calls whose memory another thread changes all the time, from threads that are killed in the middle of it.
fn hostile() {
    static OVER: AtomicBool = AtomicBool::new(false);
    let text =
        |text: &str| Box::leak(CString::new(text).unwrap().into_bytes_with_nul().into_boxed_slice()).as_mut_ptr();
    let (path, name) = (text("/tmp/a/0000000"), text("trusted.overlay.opaque"));
    let (good, bad) = (c"/tmp/a/0000000", c"/tmp/out/dev/0");
    let (opaque, other) = (c"trusted.overlay.opaque", c"trusted.overlay.elsewh");
    let (path, name) = (path as usize, name as usize);
    let swapper = std::thread::spawn(move || {
        while !OVER.load(Ordering::Relaxed) {
            for (path_text, name_text) in [(bad, other), (good, opaque)] {
                for (place, text) in [(path, path_text), (name, name_text)] {
                    for (number, byte) in text.to_bytes().iter().enumerate() {
                        // SAFETY: the places are as long as the texts and live for ever; others that look at them make system
                        // calls, which copy them in whatever state they are.
                        unsafe { std::ptr::write_volatile((place as *mut u8).add(number), *byte) };
                    }
                }
            }
        }
    });
    let begun = Instant::now();
    let mut made = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        // SAFETY: the call reads a string that ends with a zero byte.
        made += i32::from(unsafe { libc::mknod(path as *const libc::c_char, libc::S_IFCHR | 0o666, 0x103) } == 0);
        // SAFETY: likewise.
        unsafe {
            libc::setxattr(
                c"/tmp/d".as_ptr(),
                name as *const libc::c_char,
                c"y".as_ptr().cast(),
                1,
                0,
            );
            libc::umount2(good.as_ptr(), libc::MNT_DETACH);
            libc::umount2(bad.as_ptr(), libc::MNT_DETACH);
            libc::unlink(good.as_ptr());
            libc::unlink(bad.as_ptr());
        }
        // SAFETY: the child makes one call, and is killed at some point of it.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::mknod(c"/tmp/a/killed".as_ptr(), libc::S_IFCHR | 0o666, 0x103);
                libc::_exit(0);
            }
        }
        // SAFETY: the child is this process's, and is waited for.
        unsafe {
            libc::kill(child, libc::SIGKILL);
            libc::waitpid(child, std::ptr::null_mut(), 0);
        }
    }
    OVER.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    eprintln!("made {made}");
    assert!(made > 0);
}

/// A file system that answers nothing, and more callers than there are helpers.
fn stuck() {
    use std::os::fd::AsRawFd;
    let device = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    std::fs::create_dir_all("/tmp/fuse").unwrap();
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
    let options = CString::new(options).unwrap();
    rustix::mount::mount(
        "fuse",
        "/tmp/fuse",
        "fuse",
        rustix::mount::MountFlags::empty(),
        options.as_c_str(),
    )
    .unwrap();
    let callers: Vec<_> = (0..12)
        .map(|number| {
            std::thread::spawn(move || {
                let path = CString::new(format!("/tmp/fuse/{number}")).unwrap();
                // SAFETY: the call reads a string that ends with a zero byte.
                unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o666, 0x103) }
            })
        })
        .collect();
    // Each has either reached the file system or waits for a helper; there is nothing to be waited for.
    std::thread::sleep(Duration::from_millis(500));
    eprintln!("all callers wait");
    for caller in callers {
        let _ = caller.join();
    }
}
