//! The four formats of traces, and what is wrong with a line.

use std::path::Path;

use super::*;

/// The plan of a trace with this text; `tail` is more of the arrival's table.
fn recorded(text: &str, tail: &str) -> Result<TenantPlan, PlanError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    std::fs::write(&file, text).unwrap();
    of_file(&file, tail)
}

fn of_file(file: &Path, tail: &str) -> Result<TenantPlan, PlanError> {
    let arrival = format!("arrival = {{ kind = 'trace', file = '{}', {tail} }}", file.display());
    let workload = workload(&format!("duration = '60s'\n[tenants.chat]\nturns = 3\n{arrival}\n"));
    TenantPlan::new(&workload, "chat", &Vocabulary::estimated())
}

/// Moments in milliseconds, with prompt and output tokens.
fn rows(plan: &TenantPlan) -> Vec<(u128, u64, u64)> {
    let row = |(number, at): (u64, Duration)| {
        let turns = plan.session(number).turns;
        assert_eq!(turns.len(), 1, "a row is a request");
        assert_eq!(turns[0].prompt.split(' ').count() as u64, turns[0].prompt_tokens);
        (at.as_millis(), turns[0].prompt_tokens, turns[0].output_tokens)
    };
    (0..).zip(plan.arrivals()).map(row).collect()
}

const OURS: &str = "{\"at\": 1.5, \"prompt_tokens\": 10, \"output_tokens\": 3}\n\n\
                    {\"at\": 2, \"prompt_tokens\": 0, \"output_tokens\": 0}\n\
                    {\"at\": 60, \"prompt_tokens\": 9, \"output_tokens\": 9}\n";

#[test]
fn our_own_rows_are_due_at_their_moments_up_to_the_end_of_the_run() {
    assert_eq!(rows(&recorded(OURS, "").unwrap()), [(1500, 10, 3), (2000, 1, 1)]);
}

#[test]
fn a_trace_can_be_played_faster() {
    assert_eq!(rows(&recorded(OURS, "speed = 2").unwrap()), [(750, 10, 3), (1000, 1, 1), (30_000, 9, 9)]);
}

#[test]
fn azures_two_forms_of_time_are_read_and_the_first_row_is_the_beginning() {
    for text in [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,374,44\n\
         2024-05-10 00:00:04.324509+00:00,396,109\n",
    ] {
        assert_eq!(rows(&recorded(text, "format = 'azure'").unwrap()), [(0, 374, 44), (4314, 396, 109)]);
    }
}

#[test]
fn burst_gpts_columns_are_found_with_and_without_sessions() {
    for text in [
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,ChatGPT,472,18,490,Conversation log\n45.5,ChatGPT,1087,0,1087,Conversation log\n",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,x,1.2,ChatGPT,472,18,490,API log\n45.5,,,GPT-4,1087,0,1087,API log\n",
    ] {
        assert_eq!(rows(&recorded(text, "format = 'burst_gpt'").unwrap()), [(0, 472, 18), (40_500, 1087, 1)]);
    }
}

#[test]
fn mooncakes_prompts_have_the_text_in_common_of_which_they_have_the_blocks_in_common() {
    let text = "{\"timestamp\": 1000, \"input_length\": 1200, \"output_length\": 5, \"hash_ids\": [0, 1, 2]}\n\
                {\"timestamp\": 4052, \"input_length\": 1100, \"output_length\": 6, \"hash_ids\": [0, 1, 3]}\n\
                {\"timestamp\": 4052, \"input_length\": 600, \"output_length\": 6, \"hash_ids\": [0, 4]}\n\
                {\"timestamp\": 4052, \"input_length\": 700, \"output_length\": 6}\n";
    let plan = recorded(text, "format = 'mooncake'").unwrap();
    assert_eq!(rows(&plan), [(0, 1200, 5), (3052, 1100, 6), (3052, 600, 6), (3052, 700, 6)]);
    let prompts: Vec<Vec<String>> =
        (0..4).map(|number| plan.session(number).turns[0].prompt.split(' ').map(str::to_owned).collect()).collect();
    let shared =
        |one: usize, other: usize| prompts[one].iter().zip(&prompts[other]).take_while(|(a, b)| a == b).count();
    // By chance a word or two may be the same beyond.
    assert!((1024..1030).contains(&shared(0, 1)));
    assert!((512..518).contains(&shared(0, 2)));
    assert!(shared(0, 3) < 6, "a prompt without blocks is like no other");
}

#[test]
fn a_bad_line_is_told_with_its_file_line_and_reason() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n";
    for (text, tail, line, what) in [
        (
            "{\"at\": 1, \"prompt_tokens\": 1, \"output_tokens\": 1}\n{\"at\": 2}\n",
            "",
            2,
            "missing field `prompt_tokens`",
        ),
        ("\n{\"at\": -1, \"prompt_tokens\": 1, \"output_tokens\": 1}\n", "", 2, "-1 s is no moment"),
        ("{\"at\": 1, \"prompt_tokens\": 2000000, \"output_tokens\": 1}\n", "", 1, "2000000 tokens: at most 1000000"),
        ("{\"at\": 1, \"prompt\": \"x\"}\n", "", 1, "unknown field `prompt`"),
        ("hello\n", "", 1, "expected value"),
        (
            "{\"at\": 2, \"prompt_tokens\": 1, \"output_tokens\": 1}\n{\"at\": 1, \"prompt_tokens\": 1, \"output_tokens\": 1}\n",
            "",
            2,
            "is earlier than the row before",
        ),
        ("{\"at\": 70, \"prompt_tokens\": 1, \"output_tokens\": 1}\n", "", 1, "no row is due within"),
        ("", "", 1, "no row is due within"),
        (&format!("{azure}2023-11-16 18:15:45,1,1\n"), "format = 'azure'", 3, "is earlier than the row before"),
        (&format!("{azure}yesterday,1,1\n"), "format = 'azure'", 3, "\"yesterday\" is no time"),
        (&format!("{azure}2023-11-16 18:15:47,many,1\n"), "format = 'azure'", 3, "invalid digit"),
        (&format!("{azure}1999-11-16 18:15:47,1,1\n"), "format = 'azure'", 3, "is before 2000"),
        (
            "TIMESTAMP,ContextTokens\n2023-11-16 18:15:46,374\n",
            "format = 'azure'",
            2,
            "missing field `GeneratedTokens`",
        ),
        ("Timestamp,Request tokens,Response tokens\nnan,1,1\n", "format = 'burst_gpt'", 2, "NaN s is no moment"),
    ] {
        match recorded(text, tail).unwrap_err() {
            PlanError::Line { line: told, what: why, .. } => {
                assert_eq!(told, line, "{text}");
                assert!(why.contains(what), "{why}");
            }
            other => panic!("{text}: {other}"),
        }
    }
}

#[test]
fn what_is_no_trace_at_all_is_refused() {
    let error = of_file(Path::new("/nowhere/trace"), "").unwrap_err();
    assert!(matches!(error, PlanError::Unreadable { .. }), "{error}");
    let endless = "x".repeat(3 << 20);
    assert!(matches!(recorded(&endless, "").unwrap_err(), PlanError::Line { line: 1, .. }));
}
