//! The functions that change something, each described once, as for storage drivers.

use super::room::{Zone, other, usual};
use crate::case::{Answer, Case, Outcome, Stop, fail, skip};
use crate::faults::INJECTED;
use crate::{Permission, Stand};

/// How many steps of a driver in one call are looked at.
const MOST_STEPS: usize = 200;

/// A call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Publish,
    Replace,
    Delete,
    Reconcile,
}

/// What a call is made with.
struct Scene {
    one: Zone,
    stranger: Option<Zone>,
}

impl Action {
    pub(super) const ALL: [Self; 4] = [Self::Publish, Self::Replace, Self::Delete, Self::Reconcile];

    fn id(self) -> &'static str {
        match self {
            Self::Publish => "zone.zone.publish",
            Self::Replace => "zone.zone.publish-newer",
            Self::Delete => "zone.zone.delete",
            Self::Reconcile => "zone.zone.reconcile",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Publish => "publishing a zone",
            Self::Replace => "publishing a newer version",
            Self::Delete => "deleting a zone",
            Self::Reconcile => "reconciling zones",
        }
    }

    async fn arrange(self, stand: &Stand) -> Outcome<Scene> {
        let one = match self {
            Self::Publish => Zone::fresh(stand).await?,
            _ => Zone::published(stand).await?,
        };
        let stranger = match self {
            Self::Reconcile => Some(Zone::published(stand).await?),
            _ => None,
        };
        Ok(Scene { one, stranger })
    }

    async fn act(self, scene: &Scene) -> Outcome<Answer> {
        let one = &scene.one;
        match self {
            Self::Publish => one.publish_of(1, 1, usual()).await,
            Self::Replace => one.publish_of(2, 2, other()).await,
            Self::Delete => Ok(one.delete().await),
            Self::Reconcile => Ok(one.reconcile(&[one]).await.map(|_| ())),
        }
    }

    fn check(self, scene: &Scene, when: &str) -> Outcome {
        match self {
            Self::Publish => scene.one.shows(1, &usual(), when),
            Self::Replace => scene.one.shows(2, &other(), when),
            Self::Delete => scene.one.is_gone(when),
            Self::Reconcile => {
                scene.one.shows(1, &usual(), when)?;
                scene
                    .stranger
                    .as_ref()
                    .map_or(Ok(()), |stranger| stranger.is_gone(when))
            }
        }
    }

    /// Shows that the zone is what it was or what it becomes, and nothing in between: name servers may look at any time.
    fn check_between(self, scene: &Scene, when: &str) -> Outcome {
        let before = || match self {
            Self::Publish => scene.one.is_gone(when),
            _ => scene.one.shows(1, &usual(), when),
        };
        let Err(Stop::Fail(why)) = before() else { return Ok(()) };
        match self.check(scene, when) {
            Err(Stop::Fail(other)) => fail(format!("neither what it was ({why}) nor what it becomes ({other})")),
            done => done,
        }
    }

    async fn end(scene: Scene, when: &str) -> Outcome {
        for zone in [Some(&scene.one), scene.stranger.as_ref()].into_iter().flatten() {
            zone.delete().await?;
            zone.is_gone(&format!("{when}, and deleted"))?;
        }
        Ok(())
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
                format!("{words} shows the old or the new wherever it was killed, and goes on when it is repeated"),
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
            self.act(&scene).await??;
            if [1, 2, 10].contains(&number) {
                self.check(&scene, &format!("after call number {number}"))?;
            }
        }
        Self::end(scene, "after ten calls").await
    }

    async fn killed(self, stand: &Stand) -> Outcome {
        for step in 0..MOST_STEPS {
            let scene = self.arrange(stand).await?;
            let ended = stand.faults.killed_after(step, self.act(&scene)).await;
            let killed = match ended {
                Ok(answer) => {
                    answer??;
                    return Self::end(scene, "at last").await;
                }
                Err(function) => format!("killed after step {} ({function})", step + 1),
            };
            self.check_between(&scene, &killed)?;
            let when = format!("{killed} and repeated");
            for _ in 0..2 {
                if let Err(refused) = self.act(&scene).await? {
                    return fail(format!("{when}: {refused}"));
                }
            }
            self.check(&scene, &when)?;
            Self::end(scene, &when).await?;
        }
        too_many_steps()
    }

    async fn host_error(self, stand: &Stand) -> Outcome {
        for request in 0..MOST_STEPS {
            let scene = self.arrange(stand).await?;
            let (answer, struck) = stand.faults.failing_at(request, self.act(&scene)).await;
            let answer = answer?;
            let Some(function) = struck else {
                answer?;
                return Self::end(scene, "at last").await;
            };
            let when = format!("{function} (call {} to the host) failed with {INJECTED}", request + 1);
            match answer {
                Ok(()) => self.check(&scene, &when)?,
                Err(refused) if refused.error.is(INJECTED) => self.check_between(&scene, &when)?,
                Err(refused) => return fail(format!("{when}, and the driver told another error: {refused}")),
            }
            if let Err(refused) = self.act(&scene).await? {
                return fail(format!("{when}; repeated: {refused}"));
            }
            self.check(&scene, &format!("{when}; repeated"))?;
            Self::end(scene, &when).await?;
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
            match (answer?, denied.first()) {
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
            if let Err(refused) = self.act(&scene).await? {
                return fail(format!("{when}: {refused}"));
            }
            self.check(&scene, &when)?;
            Self::end(scene, &when).await?;
        }
        Ok(())
    }
}

fn too_many_steps() -> Outcome {
    fail(format!("one call had the host do more than {MOST_STEPS} things"))
}
