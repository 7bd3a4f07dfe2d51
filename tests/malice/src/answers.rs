//! Attempts with what the driver answers. Errors carry them, since every function can answer with one.

use hutch_sdk::Error;

pub(crate) fn error(name: &str) -> Error {
    let plain = |code: &str, message: &str| Error::new(code, message);
    match name {
        "answer.forged-code" => plain("NOT a code!\r\nHTTP/1.1 200 OK", "x"),
        "answer.forged-lines" => plain("invalid", "x\n\u{1b}[2J2026-01-01T00:00:00Z ERROR hutchd: forged"),
        "answer.long" => plain("invalid", &"x".repeat(10 << 20)),
        "answer.many-details" => Error {
            details: vec![("key".to_owned(), "value".to_owned()); 100_000],
            ..plain("invalid", "x")
        },
        "answer.not-utf8" => Error {
            message: lie(filled(0xff, 16), 4),
            ..plain("invalid", "")
        },
        "answer.out-of-bounds" => Error {
            message: lie(filled(b'x', 16), 0x7fff_0000),
            ..plain("invalid", "")
        },
        "answer.gigabytes" => {
            // One megabyte that is named a thousand times.
            let text = filled(b'x', 1 << 20);
            Error {
                details: (0..1000).map(|_| (String::new(), lie(text, 1 << 20))).collect(),
                ..plain("invalid", "x")
            }
        }
        _ => plain("internal", &format!("escaped: there is no attempt {name:?}")),
    }
}

fn filled(byte: u8, len: usize) -> *mut u8 {
    Box::leak(vec![byte; len].into_boxed_slice()).as_mut_ptr()
}

/// A text that is not what a `String` promises: `len` bytes from `at` on, whatever is there.
#[allow(unsafe_code, reason = "the host must bear a guest that breaks every promise")]
fn lie(at: *mut u8, len: usize) -> String {
    // SAFETY: none is claimed. The text is handed to the host at once, which reads it out of the guest's memory and must
    // not trust it; the guest itself never looks at it.
    unsafe { String::from_raw_parts(at, len, len) }
}
