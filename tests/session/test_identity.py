"""The session id: frozen by golden vectors, equal for every retry, different for another viewing."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from pipeline.session.datastream import OPEN_DATASTREAM, Datastream
from pipeline.session.identity import ecid_of, pod_or_chapter_id, session_id, visitor_key
from pipeline.session.model import Form, Session, Visitor
from pipeline.session.pseudonyms import pseudonymised
from pipeline.wire import media_collection, media_edge
from pipeline.wire.encode import to_media_collection, to_media_edge
from tests.stories import story

GOLDEN = {
    "0 start, 0 play, 30 pause, 90 play, 100 end": (
        "69d213141f44bbd3dab9c942973d8315d1537dc3a2ca13efba6fc384fd8f23e4"
    ),
    "0 start @0, 0.5 play @0.25, 10 complete @9.75": (
        "e0b35c4f60a54e5ca251ed419b5d8ad8d9b671d77881e4a3210a7f04f6326786"
    ),
}
CANONICAL = (
    '["default","ORG@AdobeOrg","email:zoë@example.org","film \\"1\\"",'
    '[["sessionStart",0,1700000000000],["statesUpdate",12.5,1700000000250],["sessionEnd",13,1699999999000]]]'
)
"""What is hashed, in full: whoever builds another implementation can build it from this line."""


def identity(session: Session, datastream: Datastream = OPEN_DATASTREAM) -> str:
    return session_id(session, datastream)


def test_the_canonical_form_is_frozen() -> None:
    assert {text: identity(story(text)) for text in GOLDEN} == GOLDEN


def test_the_hash_is_over_one_line_of_json() -> None:
    session = story("0 start @0, 0.25 on mute @12.5, -1 end @13", name='film "1"')
    session = session._replace(visitor=Visitor(key_value="email:zoë@example.org"))
    assert identity(session) == hashlib.sha256(CANONICAL.encode()).hexdigest()


def test_without_a_visitor_the_hash_has_null_in_its_place() -> None:
    session = story("0 start, 9 end")._replace(visitor=Visitor(aid="a", vid="v"))
    canonical = (
        '["default","ORG@AdobeOrg",null,"film-1",'
        '[["sessionStart",0,1700000000000],["sessionEnd",0,1700000009000]]]'
    )
    assert identity(session) == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_retry_with_rebuilt_params_is_the_same_session() -> None:
    body = json.loads(to_media_collection(story("0 start, 0 play, 100 end", show="Show")))
    params = body[0]["params"]
    body[0]["params"] = dict(reversed(params.items())) | {
        "visitor.customerIDs": {"crm": {"id": "new"}},
        "analytics.aid": "later",
    }
    retried = media_collection.decode(json.dumps(body).encode(), "/api/v1/downloaded")
    assert identity(retried) == identity(story("0 start, 0 play, 100 end", show="Show"))


def test_five_and_five_point_zero_are_one_playhead() -> None:
    body = to_media_collection(story("0 start, 0 play, 5 end"))
    assert b'"playhead":5,' in body
    pointed = body.replace(b'"playhead":5,', b'"playhead":5.0,')
    path = "/api/v1/downloaded"
    assert identity(media_collection.decode(body, path)) == identity(media_collection.decode(pointed, path))


def test_another_moment_visitor_content_or_datastream_is_another_session() -> None:
    base = story("0 start, 0 play, 100 end")
    others = [
        story("0 start, 0 play, 101 end"),
        story("0 start, 0 play, 100 end", name="film-2"),
        base._replace(visitor=Visitor(ecid="2", key_value="2")),
        base._replace(routing=base.routing._replace(organisation="OTHER")),
    ]
    ids = {identity(session) for session in [base, *others]} | {identity(base, Datastream(id="other"))}
    assert len(ids) == 6


def test_the_utc_offset_of_an_edge_event_is_not_part_of_the_id() -> None:
    item = json.loads(to_media_edge(story("0 start, 0 play, 100 end")))
    moved = json.loads(json.dumps(item))
    for event in moved["xdm"]["mediaDownloadedEvents"]:
        event["mediaEventTimestamp"] = (
            event["mediaEventTimestamp"].replace("T22:", "T23:").replace("Z", "+01:00")
        )
    decoded = [media_edge.decode(json.dumps(i).encode(), OPEN_DATASTREAM) for i in (item, moved)]
    assert decoded[0].events[0].occurred_at_ms == decoded[1].events[0].occurred_at_ms
    assert identity(decoded[0]) == identity(decoded[1])


def test_the_visitor_key_is_shared_by_a_visitors_uploads_and_falls_back_to_the_session() -> None:
    one, two = story("0 start, 5 end"), story("0 start, 9 end")
    keys = {visitor_key(s, OPEN_DATASTREAM, identity(s)) for s in (one, two)}
    assert len(keys) == 1
    nobody = one._replace(visitor=Visitor(aid="a", vid="v"))
    assert visitor_key(nobody, OPEN_DATASTREAM, "the-session") == "the-session"


def test_pod_and_chapter_ids_are_the_md5_of_the_content_and_the_index() -> None:
    assert pod_or_chapter_id("abc", 1) == "900150983cd24fb0d6963f7d28e17f72_1"


EMAIL = {"email": [{"id": "zoe@example.org"}]}
PRIMARY = {"email": [{"id": "zoe@example.org", "primary": True}], "crm": [{"id": "7"}]}


def of_edge(text: str, identity_map: dict[str, Any], datastream: Datastream = OPEN_DATASTREAM) -> Session:
    item = json.loads(to_media_edge(story(text, form=Form.MEDIA_EDGE)))
    item["xdm"]["identityMap"] = identity_map
    return media_edge.decode(json.dumps(item).encode(), datastream)


def ecids(
    identity_map: dict[str, Any], *datastreams: Datastream, hide: str = "", key: bytes = b"k"
) -> set[Any]:
    """Return the ECIDs of two sessions of one visitor, in each of these datastreams."""
    found = set()
    for datastream in datastreams or (OPEN_DATASTREAM,):
        for text in ("0 start, 5 end", "100 start, 109 end"):
            session = of_edge(text, identity_map, datastream)
            session = session._replace(visitor=pseudonymised(session.visitor, hide.split(), key))
            ecid, generated = ecid_of(session, identity(session))
            assert generated
            assert len(ecid or "") == 38
            found.add(ecid)
    return found


@pytest.mark.parametrize("identity_map", [EMAIL, PRIMARY])
def test_an_edge_visitor_without_an_ecid_gets_the_same_one_for_every_session(
    identity_map: dict[str, Any],
) -> None:
    assert len(ecids(identity_map)) == 1
    assert ecids(identity_map).isdisjoint(ecids({"email": [{"id": "another"}]}))


def test_only_nobody_has_an_ecid_of_the_session() -> None:
    assert len(ecids({})) == 2


def test_an_edge_visitor_has_one_generated_ecid_in_an_organisation_and_others_elsewhere() -> None:
    one, two = Datastream(id="one"), Datastream(id="two")
    assert len(ecids(PRIMARY, one, two)) == 2
    of_both = [datastream._replace(organisation="ORG@AdobeOrg") for datastream in (one, two)]
    assert len(ecids(PRIMARY, *of_both)) == 1


@pytest.mark.parametrize("hide", ["ecid", "identities"])
@pytest.mark.parametrize("identity_map", [EMAIL, PRIMARY])
def test_a_generated_ecid_is_made_of_the_pseudonym(hide: str, identity_map: dict[str, Any]) -> None:
    plain, one, two = (
        ecids(identity_map, hide=h, key=k) for h, k in (("aid", b"1"), (hide, b"1"), (hide, b"2"))
    )
    assert len(plain) == len(one) == len(two) == 1
    assert len(plain | one | two) == 3


@pytest.mark.parametrize("hide", ["ecid", "identities"])
def test_an_installation_is_hidden_with_the_ecid_that_may_be_made_of_it(hide: str) -> None:
    visitor = pseudonymised(Visitor(ecid="1", app_installation_id="app-1"), [hide], b"key")
    assert visitor.app_installation_id not in {None, "app-1"}
