//! Containers with busybox: all that needs no distribution.

mod common;

use common::{Lab, run};
use hutch_container::{ContainerState, ExitKind, ExitStatus};

#[tokio::test]
async fn boots_executes_and_dies() {
    let lab = Lab::new();
    let spec = lab.busybox("boot");
    let keeper = lab.start(&spec).await;
    assert!(matches!(
        keeper.state(),
        ContainerState::Running {
            reboots: 0,
            frozen: false,
            ..
        }
    ));
    let (status, text) = run(
        &keeper,
        &[
            "sh",
            "-c",
            "hostname; id -u; echo $$; cat /proc/1/comm; ls /dev; mount; cat /proc/self/cgroup; ls -la /; ip a",
        ],
    )
    .await;
    println!("{text}");
    assert_eq!(status, ExitStatus::Code(0), "{text}");
    keeper.kill().await.unwrap();
    assert!(matches!(keeper.state(), ContainerState::Ended(exit) if exit.kind == ExitKind::Killed));
    println!("{}", String::from_utf8_lossy(&keeper.console_log().await.unwrap()));
    keeper.release().await.unwrap();
    keeper.gone().await;
}
