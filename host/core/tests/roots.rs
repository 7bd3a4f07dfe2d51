//! Instances' roots on a pool whose driver wants to know when nobody uses one any more: however a use of it ends, it is let go.
//!
//! No container runs here, as there is no keeper: a start and a look at the files fail when the root is there already. The program is its
//! own helper as in `images.rs`.

mod common;

use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Bench, Place, finished};
use hutch_api::image::{ImagesPost, ImagesPostSource};
use hutch_api::instance::{InstancePatch, InstanceSource, InstanceStatePut};

/// Waits until so many volumes are gone, and answers with how often it was begun to let one go.
async fn gone(bench: &Bench, times: u32) -> u32 {
    let mut released = bench.world.released.subscribe();
    let waited = released.wait_for(|(_, gone)| *gone >= times);
    let waited = tokio::time::timeout(Duration::from_secs(30), waited).await;
    let (begun, gone) = *waited.expect("it is let go").expect("the world is there");
    assert_eq!(gone, times);
    begun
}

/// Makes an image of the instance.
async fn publish(bench: &Bench) {
    let source = ImagesPostSource {
        kind: "instance".to_owned(),
        name: "c1".to_owned(),
        ..ImagesPostSource::default()
    };
    let post = ImagesPost {
        source: Some(source),
        ..ImagesPost::default()
    };
    let operation = bench.core.image_create("default", post).await.expect("begun");
    finished(&operation).await.expect("published");
}

/// Starts the instance, as far as that goes.
async fn start(bench: &Bench) {
    let put = InstanceStatePut {
        action: "start".to_owned(),
        ..InstanceStatePut::default()
    };
    let operation = bench.core.instance_state_change("default", "c1", put).await;
    let error = finished(&operation.expect("begun"))
        .await
        .expect_err("there is no keeper");
    assert!(error.contains("making the container"), "{error}");
}

async fn a_root_is_let_go_however_its_use_ends(bench: Bench) {
    let nothing = InstanceSource {
        kind: "none".to_owned(),
        ..InstanceSource::default()
    };
    bench.launch("c1", nothing).await.expect("made");
    publish(&bench).await;
    gone(&bench, 1).await;
    start(&bench).await;
    gone(&bench, 2).await;
    let looked = bench.core.file_info("default", "c1", "/etc").await;
    assert!(looked.is_err(), "there is no keeper");
    assert_eq!(gone(&bench, 3).await, 3);
    // What leaves the root alone has nothing to let go; the second change comes after all that the first one led to.
    for description in ["one", "two"] {
        let patch = InstancePatch {
            description: Some(description.to_owned()),
            ..InstancePatch::default()
        };
        let patched = bench.core.instance_patch("default", "c1", patch, None).await;
        patched.expect("changed");
    }
    assert_eq!(gone(&bench, 3).await, 3);
    // Who wants the root does not wait for it to go, and it goes after that.
    bench.world.slow.store(true, Ordering::SeqCst);
    start(&bench).await;
    let mut released = bench.world.released.subscribe();
    let begun = released.wait_for(|(begun, _)| *begun == 4).await;
    drop(begun.expect("the world is there"));
    bench.world.slow.store(false, Ordering::SeqCst);
    start(&bench).await;
    assert_eq!(gone(&bench, 4).await, 5);
}

async fn a_start_of_the_daemon_makes_up_for_it(bench: Bench) {
    assert_eq!(gone(&bench, 5).await, 6);
}

fn main() -> ExitCode {
    if let Some(code) = hutch_archive::run_if_asked() {
        return code;
    }
    let place = Place::new();
    place.life(a_root_is_let_go_however_its_use_ends);
    place.life(a_start_of_the_daemon_makes_up_for_it);
    ExitCode::SUCCESS
}
