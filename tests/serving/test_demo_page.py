"""The demo page in a browser: choosing a picture, keys, narrow screens, text of others, and no request elsewhere."""

import base64
import threading

import browser
import pictures
import pytest

from alexnet_tf.serving import demo_server

pytestmark = pytest.mark.skipif(not browser.PATH, reason="needs Chromium")
SCRIPT = "<img src=x onerror=alert(1)>"


def image(seed):
    png = pictures.encode(pictures.noise(32, 32, seed), "PNG")
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def answer(content):
    if not content.startswith(b"\x89PNG"):
        raise ValueError(f"Expected a picture. Received: {SCRIPT}")
    classes = [("cat", 0.75, 1), (SCRIPT, 0.2, 2), ("Donaudampfschifffahrtsgesellschaftskapitän" * 3, 0.05, 3)]
    return {
        "classes": [
            {
                "name": name,
                "words": "tabby, tabby cat" if name == "cat" else "",
                "probability": share,
                "map": image(seed),
                "speaks": seed != 2,
            }
            for name, share, seed in classes
        ],
        "crop": image(0),
        "neighbors": [
            {
                "name": f"train/{SCRIPT}/{number}.png",
                "class_name": SCRIPT,
                "distance": number / 3,
                "image": image(number),
            }
            for number in range(6)
        ],
    }


@pytest.fixture(scope="module")
def address():
    with demo_server.Server("127.0.0.1", 0, answer, {"description": f"Classifies {SCRIPT}"}) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(0.01))
        thread.start()
        yield server.address
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page():
    with browser.page() as page:
        yield page


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "my cat.png"
    path.write_bytes(pictures.encode(pictures.noise(20, 30), "PNG"))
    return path


def test_a_chosen_picture_is_answered_and_classes_are_chosen_by_keys(address, page, picture):
    page.open(address)
    assert page.evaluate("document.getElementById('classes-title').checkVisibility()") is False
    page.choose(picture)
    page.wait("!document.getElementById('result').hidden")
    assert page.evaluate("document.getElementById('classes-title').checkVisibility()")
    assert page.evaluate("document.getElementById('status').textContent") == "my cat.png: tabby (cat), 75.00%"
    names = page.evaluate("[...document.querySelectorAll('#classes button span:nth-child(2)')].map(e => e.textContent)")
    assert names[:2] == ["tabby (cat)", SCRIPT] and len(names) == 3
    assert page.evaluate("document.querySelectorAll('#neighbors img').length") == 6
    # All pictures are drawn, and all have a text.
    page.wait("[...document.images].every(e => e.complete && e.naturalWidth === 32 && e.alt.length > 10)")
    source = "document.querySelectorAll('#pictures img')[1].src"
    assert page.evaluate(source) == image(1)
    # From the file input, the second Tab reaches the second class.
    page.evaluate("document.getElementById('file').focus()")
    page.press("Tab")
    page.press("Tab")
    page.press("Enter", "\r")
    page.wait(f"{source} === '{image(2)}'")
    assert page.evaluate("[...document.querySelectorAll('#classes button')].map(e => e.ariaPressed)") == [
        "false",
        "true",
        "false",
    ]
    caption = page.evaluate("document.querySelectorAll('#pictures figcaption')[1].textContent")
    assert caption == f"No position supports {SCRIPT} (Grad-CAM)"
    assert page.errors == []


def test_text_of_others_is_text(address, page, picture):
    page.open(address)
    page.choose(picture)
    page.wait("!document.getElementById('result').hidden")
    assert page.evaluate("document.querySelectorAll('[onerror], script:not([src]), [style*=url]').length") == 0
    assert page.evaluate("document.getElementById('about').textContent") == f"Classifies {SCRIPT}"
    # Nothing came from another place.
    assert (
        page.evaluate(
            "performance.getEntriesByType('resource').map(e => e.name)"
            ".filter(e => !e.startsWith(location.origin) && !e.startsWith('data:') && !e.startsWith('blob:'))"
        )
        == []
    )
    assert page.errors == []


def test_a_file_that_is_not_a_picture_is_an_error_in_one_line(address, page, picture, tmp_path):
    page.open(address)
    page.choose(picture)
    page.wait("!document.getElementById('result').hidden")
    (tmp_path / "bad.png").write_text("text")
    page.choose(tmp_path / "bad.png")
    page.wait("document.getElementById('status').className === 'error'")
    assert page.evaluate("document.getElementById('status').textContent") == f"Expected a picture. Received: {SCRIPT}"
    assert page.evaluate("document.getElementById('result').hidden")


def test_a_dropped_picture_is_answered(address, page):
    page.open(address)
    page.evaluate(
        "const bytes = Uint8Array.from(atob('" + image(5).partition(",")[2] + "'), c => c.charCodeAt(0));"
        "const data = new DataTransfer(); data.items.add(new File([bytes], 'dropped.png'));"
        "document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true})); 0"
    )
    page.wait("document.getElementById('status').textContent === 'dropped.png: tabby (cat), 75.00%'")


@pytest.mark.parametrize("width", [320, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_narrow_and_wide_screens_in_both_color_schemes(address, page, picture, width, dark):
    page.open(address, width=width, dark=dark)
    page.choose(picture)
    page.wait("!document.getElementById('result').hidden")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    color = page.evaluate("getComputedStyle(document.body).color")
    assert color == ("rgb(255, 255, 255)" if dark else "rgb(0, 0, 0)")
    tops = page.evaluate("[...document.querySelectorAll('section')].map(e => e.getBoundingClientRect().top)")
    # Side by side, or one below the other.
    assert (tops[0] == tops[1]) == (width == 1200)
