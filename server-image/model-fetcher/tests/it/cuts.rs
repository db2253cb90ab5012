//! Whatever a server does and whenever the fetcher ends: the file is the right one in the end.

use std::time::Duration;

use proptest::prelude::*;

use crate::hub::{Act, status};
use crate::world::World;

const SIZE: u64 = 5_000;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..=SIZE).prop_map(Act::Cut),
        2 => (0..=SIZE).prop_map(Act::NoRange),
        // What is left has a byte at least.
        1 => Just(Act::Flip(0)),
        1 => Just(status("503 Service Unavailable", "")),
        1 => Just(status("416 Range Not Satisfiable", "")),
        1 => Just(Act::Head("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned())),
        1 => (0..=SIZE).prop_map(|start| Act::Head(format!(
            "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {start}-{}/{SIZE}\r\nconnection: close\r\n\r\n",
            SIZE - 1
        ))),
    ];
    proptest::collection::vec(act, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_cuts_and_restarts_yields_the_right_file(acts in acts(), attempts in 1..4_u32) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::of_one(usize::try_from(SIZE).unwrap()).await;
            let most = acts.len() + 1;
            world.hub.act(acts);
            // Each run that gives up is a pod that starts again. Each uses up an act at least.
            for run in 0..=most {
                let ended = world.fetch_with(Duration::from_secs(20), attempts).await;
                if ended.is_ok() {
                    break;
                }
                assert!(run < most, "{ended:?}");
            }
            world.assert_whole(&["Tiny-Q8_0.gguf"]);
        });
    }
}
