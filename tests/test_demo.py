"""The demo's server: what it answers, whom, and what it says of bad input."""

import asyncio
import functools
import gzip
import io
import json
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from hpe_jax import HandPose, HandPoseEstimator, demo, hand, trained_model
from hpe_jax.inference import images
from tests import command

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(5)
PHOTO = np.asarray(Image.fromarray(RNG.integers(0, 255, (8, 12, 3), np.uint8)).resize((120, 80)))


def encoded(array: np.ndarray, kind: str = 'PNG', orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x112] = orientation
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, exif=exif)
    return file.getvalue()


LAST = {'keypoints': [[1, 2]] * 21, 'scores': [1] * 21, 'handedness': 'left'}


@pytest.fixture(scope='module')
def run(tiny_run):
    return trained_model.load(tiny_run)


@pytest.fixture(scope='module')
def served(run):
    """As `main` makes it, but the first crop is the answer."""
    return demo.Demo(HandPoseEstimator(run, refine=0))


def ask(served, method='GET', path='/model', host='127.0.0.1', **options) -> tuple[int, dict]:
    """The status and the JSON that the server answers with."""

    async def request():
        async with TestClient(TestServer(demo.make_app(served, host))) as client:
            response = await client.request(method, path, **options)
            return response.status, await response.json()

    return asyncio.run(request())


def predict(served, data, **query) -> dict:
    status, answer = ask(served, 'POST', '/predict', data=data, params=query)
    assert status == 200, answer
    return answer


def assert_says(answer: dict, found: HandPose) -> None:
    np.testing.assert_array_equal(answer['keypoints'], found.keypoints)
    np.testing.assert_array_equal(answer['scores'], found.scores)
    np.testing.assert_array_equal(answer['box'], found.box)
    assert (answer['handedness'], answer['score']) == (found.handedness, found.score)


@pytest.mark.parametrize('side', ['right', 'left', 'auto'])
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
def test_the_answer_is_the_estimators(run, served, kind, side):
    data = encoded(PHOTO, kind)
    answer = predict(served, data, hand=side)
    assert_says(answer, HandPoseEstimator(run, hand=side, refine=0)(images.read(data)))
    assert (answer['width'], answer['height'], answer['followed']) == (120, 80, False)
    assert 0 < answer['ms'] < 60_000


def test_a_turned_photo_is_answered_upright(run, served):
    answer = predict(served, encoded(PHOTO, orientation=6))
    assert (answer['width'], answer['height']) == (80, 120)
    assert_says(answer, HandPoseEstimator(run, refine=0)(np.rot90(PHOTO, -1)))


@pytest.mark.parametrize('channels', [1, 4], ids=['grey', 'RGBA'])
def test_pictures_of_other_channels(run, served, channels):
    array = PHOTO[..., 0] if channels == 1 else np.dstack([PHOTO, PHOTO[..., :1]])
    answer = predict(served, encoded(array))
    assert (answer['width'], answer['height']) == (120, 80)
    assert_says(answer, HandPoseEstimator(run, refine=0)(array))


def test_every_decoder(run, served):
    answers = {name: predict(served, encoded(PHOTO), decoder=name) for name in run.config.eval.decoders}
    for name, answer in answers.items():
        assert_says(answer, HandPoseEstimator(run, name, refine=0)(PHOTO))
        assert answer['decoder'] == name
    assert answers['mean']['keypoints'] != answers['window']['keypoints']
    assert predict(served, encoded(PHOTO))['decoder'] == run.config.eval.decoder


@pytest.mark.parametrize(
    ('data', 'query', 'sentence'),
    [
        (b'', {'name': 'a.jpg'}, 'a.jpg: no picture that can be read'),
        (b'nothing', {}, 'the file: no picture that can be read'),
        (encoded(PHOTO, 'JPEG')[:900], {}, 'the file: cannot be read: '),
        (encoded(PHOTO), {'decoder': 'best'}, "decoder 'best': unknown to this run; choose from argmax"),
        (encoded(PHOTO), {'hand': 'both'}, "hand 'both': unknown; choose from right, left, auto"),
        (encoded(PHOTO), {'box': '1,2,3'}, "box ['1', '2', '3']: must be four numbers"),
        (encoded(PHOTO), {'box': '200,0,300,50'}, 'box [120.   0. 120.  50.]: must be four numbers'),
        (encoded(PHOTO), {'last': '{'}, 'last: must be'),
        (encoded(PHOTO), {'last': '[]'}, 'last: must be'),
        (encoded(PHOTO), {'last': json.dumps({'keypoints': 10**400, 'scores': [1]})}, 'last: must be'),
        (encoded(PHOTO), {'last': '{"keypoints": [[1, 2]], "scores": [1], "handedness": "left"}'}, 'last: must be'),
        (encoded(PHOTO), {'last': '[' * 2000}, 'last: must be'),
        (encoded(PHOTO), {'last': json.dumps({**LAST, 'scores': [-1] * 21})}, 'last: must be'),
        (encoded(PHOTO), {'last': json.dumps({**LAST, 'scores': [1e300] * 21})}, 'last: must be'),
        (encoded(PHOTO), {'last': json.dumps({**LAST, 'others': [{**LAST, 'scores': [-1] * 21}]})}, 'last: must be'),
        (encoded(np.full((9, 9), np.nan, np.float32), 'TIFF'), {}, 'the file: its grey levels must be finite'),
        (
            encoded(np.zeros((3, 6000), np.uint8)),
            {},
            'the file: a picture of 6000 x 3 pixels is over 200 times as long',
        ),
        (
            encoded(PHOTO),
            {'last': json.dumps({'keypoints': [[float('nan'), 0]] * 21, 'scores': [1] * 21, 'handedness': 'left'})},
            'last: must be',
        ),
    ],
)
def test_what_cannot_be_answered_is_told_in_one_sentence(served, data, query, sentence):
    status, answer = ask(served, 'POST', '/predict', data=data, params=query)
    assert status == 400 and answer['error'].startswith(sentence) and '\n' not in answer['error']


def test_a_file_that_is_too_large_is_told_so(served):
    status, answer = ask(served, 'POST', '/predict', data=io.BytesIO(bytes(demo.MAX_BYTES + 1)))
    assert (status, answer) == (413, {'error': 'the file is too large: 50 MB at most'})


def test_a_large_photo_is_none_too_many(served):
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    assert len(data := encoded(noise)) > 1_800_000
    assert predict(served, io.BytesIO(data))['width'] == 900


def test_a_box_says_where_the_hand_is(run, served):
    found = HandPoseEstimator(run, refine=0)(PHOTO, box=(30, 20, 120, 70))
    assert_says(predict(served, encoded(PHOTO), box='30,20,1e4,70'), found)
    assert not np.array_equal(predict(served, encoded(PHOTO))['box'], found.box)


def test_a_hand_is_followed(run, served):
    estimator = HandPoseEstimator(run, refine=0)
    first = predict(served, encoded(PHOTO))
    assert_says(
        second := predict(served, encoded(PHOTO), last=json.dumps(first)), estimator.follow(PHOTO, estimator(PHOTO))
    )
    assert second['followed'] and second['keypoints'] != first['keypoints']


def test_a_photo_gets_all_rotations_and_a_frame_one(run):
    served = demo.Demo(HandPoseEstimator(run, refine=0, rotations=4))
    photo, frame = predict(served, encoded(PHOTO)), predict(served, encoded(PHOTO), frame='')
    assert_says(photo, HandPoseEstimator(run, refine=0, rotations=4)(PHOTO))
    assert_says(frame, HandPoseEstimator(run, refine=0, rotations=1)(PHOTO))
    assert photo['keypoints'] != frame['keypoints']


@pytest.mark.parametrize('change', ['other hand', 'far away', 'lost'])
def test_a_hand_that_cannot_be_followed_is_searched_for(run, served, change):
    last = predict(served, encoded(PHOTO), hand='left')
    side = 'right' if change == 'other hand' else 'left'
    if change == 'far away':
        last['keypoints'][7][1] = -1e4
    if change == 'lost':
        served = demo.Demo(HandPoseEstimator(run, refine=0, min_score=1.0))
    answer = predict(served, encoded(PHOTO), last=json.dumps(last), hand=side)
    assert_says(answer, HandPoseEstimator(run, hand=side, refine=0)(PHOTO))
    assert not answer['followed']


def test_the_page_is_told_what_it_must_know(run, served):
    status, answer = ask(served)
    assert status == 200
    assert answer['joints'] == list(hand.JOINTS) and answer['parents'] == list(hand.PARENTS)
    assert answer['colours'] == hand.COLOURS and list(map(tuple, answer['fingers'].values())) == [
        *hand.FINGERS.values()
    ]
    assert answer['decoders'] == sorted(run.config.eval.decoders) and answer['decoder'] == run.config.eval.decoder
    assert (answer['run'], answer['epoch'], answer['min_score']) == (run.workdir.name, 3, 0.5)


@pytest.mark.parametrize(
    ('headers', 'status'),
    [
        ({'Host': 'localhost:8000'}, 200),
        ({'Host': '[::1]:8000'}, 200),
        ({'Host': '192.168.1.2'}, 200),
        ({'Host': 'own.name:8000'}, 200),
        ({'Host': 'localhost:8000', 'Origin': 'http://localhost:8000'}, 200),
        ({'Host': 'elsewhere.org'}, 403),
        ({'Host': 'localhost.elsewhere.org:8000'}, 403),
        ({'Host': '[::1'}, 403),
        ({'Host': 'localhost:8000', 'Origin': 'http://localhost:9000'}, 403),
        ({'Host': 'localhost:8000', 'Origin': 'https://elsewhere.org'}, 403),
        ({'Host': 'localhost:8000', 'Origin': 'null'}, 403),
        ({'Host': 'localhost:8000', 'Origin': ''}, 403),
        ({'Host': 'localhost:8000', 'Origin': 'https://localhost:8000'}, 403),
        ({'Host': 'evil\\@localhost'}, 403),
        ({'Host': 'evil@localhost'}, 403),
        ({'Host': ''}, 403),
        ({'Host': 'LOCALHOST:8000', 'Sec-Fetch-Site': 'same-origin'}, 200),
        ({'Host': 'localhost:8000', 'Sec-Fetch-Site': 'none'}, 200),
        ({'Host': 'localhost:8000', 'Sec-Fetch-Site': 'same-site'}, 403),
        ({'Host': 'localhost:8000', 'Sec-Fetch-Site': 'cross-site'}, 403),
    ],
    ids=str,
)
def test_foreign_pages_are_turned_away(served, headers, status):
    assert ask(served, host='own.name', headers=headers)[0] == status


@pytest.mark.parametrize('encoding', ['gzip', 'deflate', 'br', 'no such'])
def test_a_compressed_body_is_refused_whole_or_broken(served, encoding):
    for data in (b'neither', gzip.compress(bytes(9**7))):
        answer = ask(served, 'POST', '/predict', data=data, headers={'Content-Encoding': encoding})
        assert answer == (400, {'error': 'the upload is compressed: send the file as it is'})


def spoken(served, text: bytes, count: int = 1) -> list[bytes]:
    """What the server answers to raw bytes on each of several connections, until it closes them."""

    async def connections():
        server = TestServer(demo.make_app(served))
        await server.start_server()
        streams = [await asyncio.open_connection('127.0.0.1', server.port) for _ in range(count)]
        for _, writer in streams:
            writer.write(text)
        answers = [await asyncio.wait_for(reader.read(), 30) for reader, _ in streams]
        for _, writer in streams:
            writer.close()
        await server.close()
        return answers

    return asyncio.run(connections())


def test_a_request_without_a_host_is_turned_away(served):
    (answer,) = spoken(served, b'GET /model HTTP/1.0\r\n\r\n')
    assert b' 403 ' in answer.splitlines()[0]


def test_idle_uploads_are_closed_and_the_queue_is_bounded(served, monkeypatch):
    monkeypatch.setattr(demo, 'IDLE', 0.3)
    monkeypatch.setattr(demo, 'MAX_WAITING', 3)
    upload = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nabc'
    statuses = sorted(answer.split()[1] for answer in spoken(served, upload, 5))
    assert statuses == [b'408'] * 3 + [b'503'] * 2
    assert predict(served, encoded(PHOTO))['width'] == 120


def test_a_request_has_a_time_limit(run, monkeypatch):
    served, over = demo.Demo(HandPoseEstimator(run)), threading.Event()
    monkeypatch.setattr(served, 'predict', lambda data, query: over.wait(30))
    monkeypatch.setattr(demo, 'LONGEST', 0.2)
    try:
        status, answer = ask(served, 'POST', '/predict', data=b'a')
        assert status == 503 and answer['error'].startswith('the answer took more than 0 seconds: try again')
    finally:
        over.set()


def test_work_of_clients_that_hung_up_is_dropped(run, monkeypatch):
    served, go, begun = demo.Demo(HandPoseEstimator(run)), threading.Event(), []

    def slow(data, query):
        begun.append(bytes(data))
        assert go.wait(30)
        return {}

    monkeypatch.setattr(served, 'predict', slow)

    async def requests():
        async with TestServer(demo.make_app(served)) as server:
            ask = b'POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n'
            streams = []
            for i in range(4):
                streams.append(await asyncio.open_connection('127.0.0.1', server.port))
                streams[-1][1].write(ask + str(i).encode())
                while not begun:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
            for _, writer in streams[1:3]:
                writer.transport.abort()
            await asyncio.sleep(0.1)
            go.set()
            for i in 0, 3:
                assert b' 200 ' in await asyncio.wait_for(streams[i][0].readline(), 30)
                streams[i][1].close()

    asyncio.run(requests())
    assert begun == [b'0', b'3']


def test_of_several_images_the_first_is_taken_and_stated(served):
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, 'GIF', save_all=True, append_images=[Image.fromarray(PHOTO[::-1])])
    assert predict(served, file.getvalue())['note'] == 'the first of 2 images'
    assert predict(served, encoded(PHOTO))['note'] == ''


def test_every_answer_has_the_headers_that_keep_others_out(served):
    async def answers():
        async with TestClient(TestServer(demo.make_app(served))) as client:
            paths = [('GET', '/'), ('GET', '/model'), ('POST', '/predict'), ('GET', '/nothing')]
            return [dict((await client.request(*path)).headers) for path in paths]

    for headers in asyncio.run(answers()):
        assert demo.HEADERS.items() <= headers.items()
    assert demo.HEADERS.keys() >= {'X-Content-Type-Options', 'Referrer-Policy', 'Cross-Origin-Resource-Policy'}


@pytest.mark.parametrize(('method', 'path', 'status'), [('GET', '/demo.py', 404), ('GET', '/predict', 405)])
def test_there_is_nothing_else(served, method, path, status):
    assert ask(served, method, path)[0] == status


def test_the_model_does_one_picture_at_a_time_and_the_server_listens_meanwhile(run, monkeypatch):
    served, turn, entered = demo.Demo(HandPoseEstimator(run)), threading.Semaphore(0), []

    def slow(data, query):
        entered.append(data)
        assert turn.acquire(timeout=30)
        return {'entered': len(entered)}

    monkeypatch.setattr(served, 'predict', slow)

    async def requests():
        async with TestClient(TestServer(demo.make_app(served))) as client:
            waiting = [asyncio.create_task(client.post('/predict')) for _ in range(3)]
            while not entered:
                assert (await client.get('/model')).status == 200
            for number in 1, 2, 3:
                turn.release()
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                assert [await task.result().json() for task in done] == [{'entered': number}]

    asyncio.run(requests())


@pytest.mark.parametrize(
    ('host', 'address'),
    [
        ('127.0.0.1', 'http://127.0.0.1:80'),
        ('0.0.0.0', 'http://localhost:80'),
        ('::', 'http://localhost:80'),
        ('::1', 'http://[::1]:80'),
    ],
)
def test_the_address_is_one_that_a_browser_opens(host, address):
    assert demo.address(host, 80) == address


START = functools.partial(command.main, module='hpe_jax.demo')


def test_the_command_says_its_address_answers_and_ends_quietly(tiny_run, tmp_path):
    process = command.start(tmp_path, START, f'--workdir={tiny_run}', '--port=0', '--hand=left', '--refine=0')
    try:
        said = wait_for('Ctrl-C', tmp_path / 'stdout', process)
        address = re.search(r'http://127.0.0.1:\d+', said)[0]
        assert f'{tiny_run}, epoch 3' in said
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address) as page:
            assert b'<canvas' in page.read() and "default-src 'none'" in page.headers['Content-Security-Policy']
        with opener.open(f'{address}/predict', encoded(PHOTO)) as answer:
            assert json.load(answer)['handedness'] == 'left'
        os.kill(process.pid, signal.SIGINT)
        process.join(30)
    finally:
        process.kill()
    assert process.exitcode == 0 and (tmp_path / 'stderr').read_text() == ''


def wait_for(word: str, path: Path, process: BaseProcess) -> str:
    """What the process has written to a file once the word is in it."""
    deadline = time.monotonic() + 120
    while not path.exists() or word not in path.read_text():
        assert process.is_alive() and time.monotonic() < deadline, path.with_name('stderr').read_text()
        time.sleep(0.05)
    return path.read_text()


def test_a_wrong_command_is_answered_in_one_sentence(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        wrong = {
            f'--port={port}': f'--host=127.0.0.1 --port={port}: Address already in use; --port=0 takes a free one',
            '--port=70000': '70000',
            '--host=192.0.2.1': 'error: cannot listen at --host=192.0.2.1 --port=0: ',
            '--hand=both': 'right|left|auto',
            f'--workdir={tmp_path}': f'error: {tmp_path} is no run directory',
            'extra': 'error: unexpected argument: extra',
        }
        processes = [command.start(tmp_path / str(i), START, '--port=0', flag) for i, flag in enumerate(wrong)]
        for i, (process, sentence) in enumerate(zip(processes, wrong.values(), strict=True)):
            process.join(120)
            process.kill()
            said = (tmp_path / str(i) / 'stderr').read_text()
            assert process.exitcode > 0 and sentence in said and 'Traceback' not in said
