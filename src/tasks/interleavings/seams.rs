//! What a process by itself has behind the seams: the right to poll, and the feed.

use super::*;
use crate::tasks::feed::{Feed as _, Item, Order};
use crate::tasks::right::Rights as _;

#[test]
fn one_holds_a_right_at_a_time_and_no_place_is_left() {
    explore(400, 10 * SECOND, || async {
        let rights = Arc::new(right::Memory::new());
        let (holders, newest) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let hold = |patience: Option<Duration>| {
            let (rights, holders, newest) = (Arc::clone(&rights), Arc::clone(&holders), Arc::clone(&newest));
            spawn(async move {
                dawdle().await;
                let held = async {
                    let right = rights.acquire(&id()).await.expect("memory does not fail");
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    // The first may be 0, as if it had followed one before.
                    let epoch = usize::try_from(right.epoch()).expect("a small number") + 1;
                    assert!(newest.swap(epoch, Ordering::SeqCst) < epoch);
                    sleep(SECOND / 20).await;
                    holders.fetch_sub(1, Ordering::SeqCst);
                    drop(right);
                };
                match patience {
                    None => held.await,
                    Some(patience) => {
                        // Whoever holds it does not leave in between: what is explored is leaving the line.
                        let _ = timeout(patience, rights.acquire(&id())).await;
                    }
                }
            })
        };
        let holders = [hold(None), hold(None), hold(Some(SECOND / 20)), hold(Some(Duration::ZERO))];
        // Nobody ever asks for this one.
        drop(rights.acquire(&id()));
        for holder in holders {
            holder.await.unwrap();
        }
        assert!(rights.is_empty());
    });
}

fn item(number: u64) -> Item {
    let answer = Arc::new(Answer::new(State::default(), String::new(), crate::clock::wall_now()));
    Item { order: Order { epoch: 1, number }, answer, age: Duration::ZERO, end: None }
}

#[test]
fn whoever_follows_comes_to_the_newest_item_and_no_topic_is_left() {
    explore(400, 10 * SECOND, || async {
        let feed = Arc::new(feed::Memory::new());
        let mut early = feed.follow(&id()).await.expect("memory does not fail");
        let publishers = [[1, 3], [2, 4]].map(|numbers| {
            let feed = Arc::clone(&feed);
            spawn(async move {
                for number in numbers {
                    feed.publish(&id(), item(number)).await.expect("memory does not fail");
                }
            })
        });
        let passer_by = {
            let feed = Arc::clone(&feed);
            spawn(async move {
                let mut follower = feed.follow(&id()).await.expect("memory does not fail");
                let _ = timeout(Duration::ZERO, follower.next()).await;
            })
        };
        let follower = spawn(async move {
            let mut newest = 0;
            while newest < 4 {
                let next = early.next().await.expect("memory does not fail").order.number;
                assert!(next > newest, "{next} after {newest}");
                newest = next;
            }
        });
        for task in publishers.into_iter().chain([passer_by, follower]) {
            task.await.unwrap();
        }
        assert!(feed.is_empty());
    });
}
