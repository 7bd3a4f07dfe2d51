//! Containers with an unmodified Debian: systemd as PID 1.

mod common;

use common::{Lab, run};
use hutch_container::ExitStatus;

#[tokio::test]
async fn systemd_reaches_running() {
    let lab = Lab::new();
    let spec = lab.debian("systemd");
    let keeper = lab.start(&spec).await;
    let up = "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.05; done; systemctl is-system-running --wait";
    let (status, text) = run(&keeper, &["sh", "-c", up]).await;
    println!("{text}");
    if status != ExitStatus::Code(0) {
        println!("{}", run(&keeper, &["systemctl", "--failed"]).await.1);
        println!("{}", run(&keeper, &["journalctl", "-b", "--no-pager"]).await.1);
        println!("{}", String::from_utf8_lossy(&keeper.console_log().await.unwrap()));
    }
    println!("{}", run(&keeper, &["systemctl", "list-units", "--no-pager"]).await.1);
    assert_eq!((status, text.trim()), (ExitStatus::Code(0), "running"));
    lab.stop(&keeper).await;
}
