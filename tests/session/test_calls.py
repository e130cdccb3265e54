"""The analytics calls: order, time, ids, context."""

from __future__ import annotations

import json
from typing import Any

from pipeline.session.calls import analytics_calls
from pipeline.session.custom import CONTEXT_LIMIT_BYTES, OPT_OUTS
from pipeline.session.datastream import OPEN_DATASTREAM, Datastream, Rules, VidRule
from pipeline.session.measure import measure
from pipeline.session.model import Call, Form, Identity, Session, Visitor
from pipeline.wire import media_collection
from pipeline.wire.encode import to_media_collection
from tests.stories import BASE_MS, story

FILM = (
    "0 start, 0 play, 10 break 2, 10 ad 15, 25 adcomplete, 25 endbreak, 25 play, 30 chapter 3, "
    "90 chaptercomplete, 100 complete"
)


def calls_of(session: Session, datastream: Datastream = OPEN_DATASTREAM) -> tuple[Call, ...]:
    return analytics_calls(session, measure(session, datastream.rules), "f" * 64, datastream)


def test_calls_come_in_the_order_of_their_events_and_the_close_is_last() -> None:
    calls = calls_of(story(FILM))
    assert [c.call.value for c in calls] == ["mediaStart", "adStart", "adClose", "chapterClose", "mediaClose"]
    assert [c.sequence for c in calls] == [0, 1, 2, 3, 4]


def test_an_ad_that_is_open_at_the_end_starts_before_it_closes() -> None:
    calls = calls_of(story("0 start, 0 play, 10 break, 10 ad"))
    assert [c.call.value for c in calls] == ["mediaStart", "adStart", "adClose", "mediaClose"]


def test_ts_is_whole_seconds_rounded_down_and_the_milliseconds_stay_beside_it() -> None:
    start, close = calls_of(story("0.4 start, 1 play, 9.999 complete"))
    assert (start.ts, start.ts_ms) == (BASE_MS // 1000, BASE_MS + 400)
    assert (close.ts, close.ts_ms) == (BASE_MS // 1000 + 9, BASE_MS + 9_999)


def test_each_call_has_its_documented_pe_pev3_and_page_event() -> None:
    video = [(c.pe, c.pev3, c.page_event) for c in calls_of(story(FILM))]
    assert video == [
        ("ms_s", "video", 50),
        ("msa_s", "videoAd", 54),
        (None, "videoAd", 55),
        (None, "video", None),
        (None, "video", 51),
    ]
    audio = calls_of(story(FILM, streamType="audio"))
    assert {c.pev3 for c in audio} == {"audio", "audioAd"}
    assert all(c.query["ms_a"] == "1" for c in audio)


def test_the_downloaded_flag_is_on_start_and_close_whatever_the_client_sent() -> None:
    sent: tuple[dict[str, Any], ...] = ({}, {"isDownloaded": True}, {"isDownloaded": False})
    for details in sent:
        calls = calls_of(story(FILM, **details))
        assert [c.context.get("a.media.downloaded") for c in calls] == ["true", None, None, None, "true"]


def test_complete_is_on_the_close_only_when_the_client_completed() -> None:
    assert calls_of(story(FILM))[-1].context["a.media.complete"] == "true"
    assert "a.media.complete" not in calls_of(story("0 start, 0 play, 9 end"))[-1].context


def test_the_close_always_carries_the_numbers_that_are_never_left_out() -> None:
    context = calls_of(story("0 start, 9 end"))[-1].context
    assert {name: context[f"a.media.{name}"] for name in ("timePlayed", "adCount", "pauseTime")} == {
        "timePlayed": "0",
        "adCount": "0",
        "pauseTime": "0",
    }
    assert context["a.media.estimatedStreams"] == "1"
    assert context["a.media.secondsSinceLastCall"] == "0"


def test_metadata_is_repeated_but_resume_is_on_the_close_only() -> None:
    calls = calls_of(story(FILM, show="Show", hasResume=True, appVersion="1.2"))
    assert all(c.context["a.media.show"] == "Show" for c in calls)
    assert [("a.media.resume" in c.context, "a.media.sdkVersion" in c.context) for c in calls] == [
        (False, False)
    ] * 4 + [(True, True)]


def test_the_narrower_custom_metadata_wins_on_its_own_call() -> None:
    session = story(FILM)
    events = list(session.events)
    events[0] = events[0]._replace(custom_metadata={"who": "session", "mood": "calm"})
    events[3] = events[3]._replace(custom_metadata={"who": "ad"})
    by_call = {c.call.value: c.context for c in calls_of(session._replace(events=tuple(events)))}
    assert (by_call["mediaStart"]["who"], by_call["adClose"]["who"]) == ("session", "ad")
    assert by_call["adStart"]["mood"] == "calm"
    assert by_call["chapterClose"]["who"] == "session"


def test_custom_metadata_never_overwrites_a_standard_value() -> None:
    session = story("0 start, 9 end")
    start = session.events[0]._replace(custom_metadata={"a.media.name": "other"})
    calls = calls_of(session._replace(events=(start, *session.events[1:])))
    assert calls[0].context["a.media.name"] == "film-1"


def test_the_tenant_is_cut_from_custom_metadata_names() -> None:
    session = story("0 start, 9 end")
    start = session.events[0]._replace(custom_metadata={"_acme.crew.lead": "x"})
    calls = calls_of(session._replace(events=(start, *session.events[1:])), Datastream(tenant="acme"))
    assert calls[0].context["crew.lead"] == "x"


def test_vid_is_sent_only_when_it_is_the_only_id_and_is_flagged_then() -> None:
    session = story("0 start, 9 end")
    both = session._replace(visitor=Visitor(ecid="1", key_value="1", vid="v"))
    only = session._replace(visitor=Visitor(vid="v"))
    assert "vid" not in calls_of(both)[0].query
    assert calls_of(only)[0].query["vid"] == "v"
    assert "vid_with_ts" in calls_of(only)[0].flags
    always = Datastream(rules=Rules(vid_rule=VidRule.ALWAYS))
    assert calls_of(both, always)[0].query["vid"] == "v"


def test_customer_ids_are_sent_by_name_with_their_state() -> None:
    session = story("0 start, 9 end")
    visitor = Visitor(ecid="1", key_value="1", identities=(Identity("crm", "77", 1),))
    query = calls_of(session._replace(visitor=visitor))[0].query
    assert (query["cid.crm.id"], query["cid.crm.as"]) == ("77", "1")


def test_an_ecid_that_we_derive_is_the_same_at_every_try_and_flagged() -> None:
    session = story("0 start, 9 end")._replace(visitor=Visitor(app_installation_id="app-1"))
    first, again = calls_of(session)[0], calls_of(session)[0]
    assert first.query["mid"] == again.query["mid"]
    assert len(first.query["mid"]) == 38
    assert "mid_generated" in first.flags
    edge = story("0 start, 9 end", form=Form.MEDIA_EDGE)._replace(visitor=Visitor())
    assert len(calls_of(edge)[0].query["mid"]) == 38


def test_opt_outs_become_their_variables() -> None:
    session = story("0 start, 9 end")
    routing = session.routing._replace(opt_out_forwarding=True, opt_out_share=True)
    call = calls_of(session._replace(routing=routing))[0]
    context = call.context
    assert (context["opt.dmp"], context["opt.oos"], context["cm.ssf"]) == ("N", "1", "1")


def test_custom_values_neither_push_out_nor_contradict_an_opt_out() -> None:
    session = story("0 start, 9 end")
    custom = {"CM.SSF": "0", "Opt.Dmp": "Y"} | {f"key{n}": "x" * 60 for n in range(600)}
    start = session.events[0]._replace(custom_metadata=custom)
    session = session._replace(events=(start, *session.events[1:]))
    routing = session.routing._replace(opt_out_forwarding=True, opt_out_share=True)
    for call in calls_of(session._replace(routing=routing)):
        found = {name: value for name, value in call.context.items() if name.lower() in OPT_OUTS}
        assert found == {"opt.dmp": "N", "opt.oos": "1", "cm.ssf": "1"}, call.call
        assert "context_truncated" in call.flags
    for call in calls_of(session):  # nobody has opted out: what the app says of it is the app's
        assert (call.context["CM.SSF"], call.context["Opt.Dmp"]) == ("0", "Y")


def test_an_audience_is_never_infinite() -> None:
    for length, audience in ((1e-320, False), (0.001, True)):
        close = calls_of(story("0 start, 0 play, 9 end", length=length))[-1]
        assert ("a.media.averageMinuteAudience" in close.context) is audience


def test_the_tenant_of_an_edge_name_is_cut_without_being_told() -> None:
    session = story("0 start, 9 end", form=Form.MEDIA_EDGE)
    custom = {"_acme.crew.lead": "x", "_acme.a.media.name": "no", "plain": "y"}
    start = session.events[0]._replace(custom_metadata=custom)
    call = calls_of(session._replace(events=(start, *session.events[1:])))[0]
    assert (call.context["crew.lead"], call.context["plain"]) == ("x", "y")
    assert call.context["a.media.name"] == "film-1"
    assert "metadata_key_reserved" in call.flags


def test_context_data_of_an_edge_upload_never_fakes_a_standard_value() -> None:
    session = story("0 start, 9 end", form=Form.MEDIA_EDGE)
    sent = {"a.media.complete": "true", "A.media.timePlayed": "99", "campaign": "c"}
    calls = calls_of(session._replace(context_data=sent))
    assert all(call.context["campaign"] == "c" for call in calls)
    assert "a.media.complete" not in calls[-1].context
    assert not any(name.startswith("A.") for call in calls for name in call.context)
    assert "metadata_key_reserved" in calls[0].flags


def test_keys_that_differ_in_case_only_are_one_key_and_the_narrower_wins() -> None:
    session = story(FILM)
    events = list(session.events)
    events[0] = events[0]._replace(custom_metadata={"Who": "session"})
    events[3] = events[3]._replace(custom_metadata={"who": "ad"})
    by_call = {c.call.value: c.context for c in calls_of(session._replace(events=tuple(events)))}
    assert (by_call["mediaStart"]["Who"], by_call["adClose"]["who"]) == ("session", "ad")
    assert "Who" not in by_call["adClose"]


def test_a_key_that_analytics_cannot_take_is_left_out_of_the_calls() -> None:
    session = story("0 start, 9 end")
    start = session.events[0]._replace(custom_metadata={"two words": "x", "ok_1.b": "y"})
    call = calls_of(session._replace(events=(start, *session.events[1:])))[0]
    assert call.context["ok_1.b"] == "y"
    assert "two words" not in call.context
    assert "context_key_invalid" in call.flags


def test_an_empty_content_type_is_called_missing() -> None:
    assert calls_of(story("0 start, 9 end", contentType=""))[0].context["a.contentType"] == (
        "missing_content_type"
    )


def test_a_small_audience_is_a_plain_number() -> None:
    close = calls_of(story("0 start, 0 play, 9 end", length=4_500_000))[-1]
    assert close.context["a.media.averageMinuteAudience"] == "0.000002"


def test_the_name_of_a_break_may_come_with_the_ad() -> None:
    body = json.loads(to_media_collection(story("0 start, 0 break 2, 0 ad, 9 adcomplete, 9 endbreak, 9 end")))
    body[2]["params"]["media.ad.podFriendlyName"] = "pre-roll"
    body[1]["params"]["media.ad.podIndex"] = 2.0
    session = media_collection.decode(json.dumps(body).encode(), "/api/v1/downloaded")
    start, close = calls_of(session)[1:3]
    assert (
        start.context["a.media.ad.podFriendlyName"]
        == close.context["a.media.ad.podFriendlyName"]
        == "pre-roll"
    )
    assert start.context["a.media.ad.pod"].endswith("_2")
    body[1]["params"]["media.ad.podFriendlyName"] = "of the break"
    named = media_collection.decode(json.dumps(body).encode(), "/api/v1/downloaded")
    assert calls_of(named)[1].context["a.media.ad.podFriendlyName"] == "of the break"


def test_a_media_variable_holds_255_bytes_of_whole_characters() -> None:
    name = "ä" * 200  # 400 bytes
    call = calls_of(story("0 start, 9 end", show=name, genre="g" * 300))[0]
    assert call.context["a.media.show"] == "ä" * 127
    assert call.context["a.media.genre"] == "g" * 300  # a list, each item of which has its own 255 bytes
    assert "context_truncated" in call.flags
    short = calls_of(story("0 start, 9 end", show="s" * 255))[0]
    assert (short.context["a.media.show"], short.flags) == ("s" * 255, ())


def test_context_over_the_limit_is_cut_from_custom_values_and_flagged() -> None:
    session = story("0 start, 9 end")
    big = {f"key{n}": "x" * 4_000 for n in range(10)}
    start = session.events[0]._replace(custom_metadata=big)
    call = calls_of(session._replace(events=(start, *session.events[1:])))[0]
    assert sum(len(k) + len(v) for k, v in call.context.items()) <= CONTEXT_LIMIT_BYTES
    assert call.context["a.media.name"] == "film-1"
    assert "context_truncated" in call.flags


def test_an_identity_map_is_sent_as_one_customer_id_for_each_namespace_but_the_ecid() -> None:
    given = (
        Identity("ecid", "1" * 38, primary=True),
        Identity("email", "first", 2),
        Identity("email", "main", 1, primary=True),
        Identity("crm", "77"),
        Identity("crm", "78", 1),
    )
    session = story("0 start, 9 end", form=Form.MEDIA_EDGE)
    query = calls_of(session._replace(visitor=Visitor(ecid="1" * 38, identities=given)))[0].query
    assert {name: value for name, value in query.items() if name.startswith("cid.")} == {
        "cid.email.id": "main",
        "cid.email.as": "1",
        "cid.crm.id": "77",
        "cid.crm.as": "0",
    }


def test_states_whose_names_differ_in_case_only_are_one_variable_with_both_their_times() -> None:
    text = "0 start, 0 on Kids, 10 off Kids, 20 on kids, 25 off kids, 30 on KIDS, 31 end"
    context = calls_of(story(text))[-1].context
    assert {name: value for name, value in context.items() if name.startswith("a.media.states.")} == {
        "a.media.states.kids.set": "true",
        "a.media.states.kids.count": "3",
        "a.media.states.kids.time": "16",
    }
