//! The functions that change something, each described once, as for storage drivers.

use hutch_driver::Options;
use hutch_driver::network::NicRef;

use super::room::{Guest, Net, Surroundings, connected};
use crate::case::{Answer, Case, Outcome, fail, skip};
use crate::faults::INJECTED;
use crate::{Permission, Stand};

/// How many steps of a driver in one call are looked at.
const MOST_STEPS: usize = 200;

/// A call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Update,
    Stop,
    Reconcile,
    Attach,
    Detach,
    DetachEnded,
}

/// What a call is made with.
struct Scene {
    net: Net,
    before: Surroundings,
    old: Options,
    one: Option<(NicRef, Guest)>,
    other: Option<(NicRef, Guest)>,
}

impl Action {
    pub(super) const ALL: [Self; 7] = [
        Self::Start,
        Self::Update,
        Self::Stop,
        Self::Reconcile,
        Self::Attach,
        Self::Detach,
        Self::DetachEnded,
    ];

    fn id(self) -> &'static str {
        match self {
            Self::Start => "network.network.start",
            Self::Update => "network.network.update",
            Self::Stop => "network.network.stop",
            Self::Reconcile => "network.network.reconcile",
            Self::Attach => "network.nic.attach",
            Self::Detach => "network.nic.detach",
            Self::DetachEnded => "network.nic.detach-ended",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Start => "starting a network",
            Self::Update => "updating a network",
            Self::Stop => "stopping a network",
            Self::Reconcile => "reconciling a network",
            Self::Attach => "connecting an instance",
            Self::Detach => "disconnecting an instance",
            Self::DetachEnded => "disconnecting an instance that has ended",
        }
    }

    async fn arrange(self, stand: &Stand) -> Outcome<Scene> {
        let before = Surroundings::now(stand)?;
        let net = Net::fresh(stand).await?;
        let mut scene = Scene {
            old: net.network.config.clone(),
            net,
            before,
            one: None,
            other: None,
        };
        if self != Self::Start {
            scene.net.start().await?;
        }
        match self {
            Self::Attach => {
                let guest = Guest::new(stand)?;
                scene.one = Some((scene.net.nic(stand, "one", Some(&guest)), guest));
            }
            Self::Detach | Self::DetachEnded => scene.one = Some(scene.net.connect(stand, "one").await?),
            Self::Reconcile => {
                scene.one = Some(scene.net.connect(stand, "one").await?);
                scene.other = Some(scene.net.connect(stand, "stranger").await?);
            }
            _ => {}
        }
        Ok(scene)
    }

    async fn act(self, scene: &Scene) -> Answer {
        let net = &scene.net;
        match (self, &scene.one) {
            (Self::Start, _) => net.start().await,
            (Self::Update, _) => net.update(&scene.old).await,
            (Self::Stop, _) => net.stop().await,
            (Self::Reconcile, one) => {
                let nics: Vec<NicRef> = one.iter().map(|(nic, _)| nic.clone()).collect();
                net.reconcile(&nics).await.map(|_| ())
            }
            (Self::Attach, Some((nic, guest))) => net.attach(nic, guest).await,
            (Self::Detach, Some((nic, guest))) => net.detach(nic, Some(guest)).await,
            (Self::DetachEnded, Some((nic, _))) => net.detach(nic, None).await,
            (Self::Attach | Self::Detach | Self::DetachEnded, None) => Ok(()),
        }
    }

    async fn check(self, stand: &Stand, scene: &Scene, when: &str) -> Outcome {
        match (self, &scene.one) {
            (Self::Stop, _) => scene.before.unchanged(stand, when),
            (Self::Attach | Self::Reconcile, Some((nic, guest))) => connected(nic, guest, when),
            // Its names and addresses are free for the next.
            (Self::Detach, Some((nic, guest))) => {
                scene.net.attach(nic, guest).await?;
                connected(nic, guest, &format!("{when}, attached again"))?;
                Ok(scene.net.detach(nic, Some(guest)).await?)
            }
            _ => scene.net.works(stand, when).await,
        }
    }

    /// Takes down what the scene has, and shows that nothing is left.
    async fn end(self, stand: &Stand, scene: Scene, when: &str) -> Outcome {
        for (nic, guest) in scene.one.iter().chain(&scene.other) {
            scene.net.detach(nic, Some(guest)).await?;
        }
        scene.net.stop().await?;
        scene.before.unchanged(stand, &format!("{when}, and stopped"))
    }

    pub(super) fn cases(self) -> Vec<Case> {
        let (id, words) = (self.id(), self.words());
        vec![
            Case::new(
                format!("{id}.idempotent"),
                format!("{words} succeeds when it is repeated, twice and ten times"),
                move |stand| Box::pin(self.idempotent(stand)),
            ),
            Case::new(
                format!("{id}.killed"),
                format!(
                    "{words} goes on where it was killed, at every step, and leaves nothing when the network is stopped"
                ),
                move |stand| Box::pin(self.killed(stand)),
            ),
            Case::new(
                format!("{id}.host-error"),
                format!("{words} tells each error of the host's, and succeeds when it is repeated"),
                move |stand| Box::pin(self.host_error(stand)),
            ),
            Case::new(
                format!("{id}.denied"),
                format!("{words} answers not-granted without a permission, and succeeds with it"),
                move |stand| Box::pin(self.denied(stand)),
            ),
        ]
    }

    async fn idempotent(self, stand: &Stand) -> Outcome {
        let scene = self.arrange(stand).await?;
        for number in 1..=10 {
            self.act(&scene).await?;
            if [1, 2, 10].contains(&number) {
                self.check(stand, &scene, &format!("after call number {number}"))
                    .await?;
            }
        }
        self.end(stand, scene, "after ten calls").await
    }

    async fn killed(self, stand: &Stand) -> Outcome {
        for step in 0..MOST_STEPS {
            let scene = self.arrange(stand).await?;
            let ended = stand.faults.killed_after(step, self.act(&scene)).await;
            let when = match ended {
                Ok(answer) => {
                    answer?;
                    return self.end(stand, scene, "at last").await;
                }
                Err(function) => format!("killed after step {} ({function}) and repeated", step + 1),
            };
            for _ in 0..2 {
                if let Err(refused) = self.act(&scene).await {
                    return fail(format!("{when}: {refused}"));
                }
            }
            self.check(stand, &scene, &when).await?;
            self.end(stand, scene, &when).await?;
        }
        too_many_steps()
    }

    async fn host_error(self, stand: &Stand) -> Outcome {
        for request in 0..MOST_STEPS {
            let scene = self.arrange(stand).await?;
            let (answer, struck) = stand.faults.failing_at(request, self.act(&scene)).await;
            let Some(function) = struck else {
                answer?;
                return self.end(stand, scene, "at last").await;
            };
            let when = format!("{function} (call {} to the host) failed with {INJECTED}", request + 1);
            match answer {
                Ok(()) => self.check(stand, &scene, &when).await?,
                Err(refused) if refused.error.is(INJECTED) => {}
                Err(refused) => return fail(format!("{when}, and the driver told another error: {refused}")),
            }
            if let Err(refused) = self.act(&scene).await {
                return fail(format!("{when}; repeated: {refused}"));
            }
            self.check(stand, &scene, &format!("{when}; repeated")).await?;
            self.end(stand, scene, &when).await?;
        }
        too_many_steps()
    }

    async fn denied(self, stand: &Stand) -> Outcome {
        let requested: Vec<Permission> = stand.requested().collect();
        if requested.is_empty() {
            return skip("the manifest requests no permission");
        }
        for permission in requested {
            let scene = self.arrange(stand).await?;
            let (answer, denied) = stand.faults.without(permission, self.act(&scene)).await;
            let name = permission.name();
            match (answer, denied.first()) {
                (Err(refused), Some(_)) if refused.error.is("not-granted") => {}
                (Err(refused), _) => return fail(format!("without the permission {name}: {refused}")),
                (Ok(()), Some(function)) => {
                    return fail(format!(
                        "without the permission {name}, {function} was refused and the call succeeded"
                    ));
                }
                (Ok(()), None) => {}
            }
            let when = format!("with the permission {name} again");
            if let Err(refused) = self.act(&scene).await {
                return fail(format!("{when}: {refused}"));
            }
            self.check(stand, &scene, &when).await?;
            self.end(stand, scene, &when).await?;
        }
        Ok(())
    }
}

fn too_many_steps() -> Outcome {
    fail(format!("one call had the host do more than {MOST_STEPS} things"))
}
