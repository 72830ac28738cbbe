"""Languages are those that py3langid names; what has no language is undetermined."""

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from snaketune.clean.language import HEAD_CHARS, identify

SENTENCES = {
    "en": ["The weather was fine this morning, and we walked along the river.", "Where can I buy two tickets?"],
    "de": ["Am Morgen war das Wetter schön, und wir gingen am Fluss entlang.", "Wo kann ich zwei Karten kaufen?"],
    "fr": ["Ce matin il faisait beau et nous avons marché le long de la rivière.", "Où puis-je acheter deux billets ?"],
    "es": ["Esta mañana hacía buen tiempo y caminamos por la orilla del río.", "¿Dónde puedo comprar dos entradas?"],
    "it": ["Stamattina il tempo era bello e abbiamo camminato lungo il fiume.", "Dove posso comprare due biglietti?"],
    "pt": ["Hoje de manhã o tempo estava bom e caminhamos junto ao rio.", "Onde posso comprar dois bilhetes?"],
    "nl": ["Vanochtend was het mooi weer en we liepen langs de rivier.", "Waar kan ik twee kaartjes kopen?"],
    "sv": ["I morse var vädret fint och vi gick längs floden.", "Var kan jag köpa två biljetter?"],
    "fi": ["Aamulla sää oli kaunis, ja kävelimme joen rantaa pitkin.", "Mistä voin ostaa kaksi lippua?"],
    "pl": ["Dziś rano była ładna pogoda i szliśmy wzdłuż rzeki.", "Gdzie mogę kupić dwa bilety?"],
    "tr": ["Bu sabah hava güzeldi ve nehir boyunca yürüdük.", "Nereden iki bilet alabilirim?"],
    "ru": ["Сегодня утром была хорошая погода, и мы гуляли вдоль реки.", "Где можно купить два билета?"],
    "uk": ["Сьогодні вранці була гарна погода, і ми гуляли вздовж річки.", "Де можна купити два квитки?"],
    "el": ["Σήμερα το πρωί ο καιρός ήταν καλός και περπατήσαμε δίπλα στο ποτάμι.", "Πού μπορώ να αγοράσω εισιτήρια;"],
    "ar": ["كان الطقس جميلا هذا الصباح ومشينا على طول النهر.", "أين يمكنني شراء تذكرتين؟"],
    "he": ["הבוקר מזג האוויר היה יפה והלכנו לאורך הנהר.", "איפה אפשר לקנות שני כרטיסים?"],
    "hi": ["आज सुबह मौसम अच्छा था और हम नदी के किनारे टहले।", "मैं दो टिकट कहाँ से खरीद सकता हूँ?"],
    "ja": ["今朝は天気がよかったので、川沿いを歩きました。", "切符はどこで買えますか。"],
    "ko": ["오늘 아침에는 날씨가 좋아서 강가를 걸었습니다.", "표 두 장을 어디에서 살 수 있습니까?"],
    "zh": ["今天早上天气很好，我们沿着河边散步。", "我在哪里可以买到两张票？"],
}


@pytest.fixture(scope="module")
def theirs() -> LanguageIdentifier:
    """py3langid's own identifier, with normalised probabilities."""
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def test_sentences_of_twenty_languages_are_told_apart() -> None:
    expected = [code for code, texts in SENTENCES.items() for _ in texts]
    codes, _ = identify(pa.array([text for texts in SENTENCES.values() for text in texts]))
    wrong = [(want, found) for want, found in zip(expected, codes, strict=True) if want != found]
    assert len(wrong) <= 1, wrong


@given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from([t for pair in SENTENCES.values() for t in pair]))))
@example(["Lº", "ABRIL", "1ª VEZ", "ⅫⅠ", "Ⓐ"])
@bounds(deadline=None, max_examples=60)
def test_answers_and_probabilities_are_those_of_py3langid(theirs: LanguageIdentifier, texts: list[str]) -> None:
    codes, probabilities = identify(pa.array(texts, pa.string()))
    for text, code, probability in zip(texts, codes, probabilities, strict=True):
        want, sure = theirs.classify(text)
        if code == "und":  # no feature at all: they spread the probability evenly
            assert sure == pytest.approx(1 / 142 * 2, rel=1e-3)
            continue
        assert probability == pytest.approx(sure, rel=2e-3)
        assert code == want or dict(theirs.rank(text))[code] == pytest.approx(sure, rel=2e-3)


def test_nothing_is_undetermined() -> None:
    codes, probabilities = identify(pa.array(["", None, " \n", "...", "Where is the station?"]))
    assert codes.tolist() == ["und"] * 4 + ["en"]
    assert probabilities[:4].tolist() == [0, 0, 0, 0]
    assert 0.3 < probabilities[4] < 1


def test_only_the_head_of_a_text_decides() -> None:
    english, german = (" ".join(SENTENCES[code]) + " " for code in ("en", "de"))
    long = english * 20
    assert len(long) > HEAD_CHARS
    (one, other), (sure, as_sure) = identify(pa.array([long, long[:HEAD_CHARS] + german * 90]))
    assert (one, sure) == (other, as_sure)


def test_capitals_and_decomposed_letters_change_no_answer() -> None:
    text = SENTENCES["fr"][0]
    decomposed = text.replace("é", "e\u0301").replace("è", "e\u0300")
    codes, probabilities = identify(pa.array([text, text.upper(), decomposed]))
    assert codes.tolist() == ["fr"] * 3
    assert probabilities[0] == probabilities[2]
    assert probabilities[1] == pytest.approx(probabilities[0], rel=0.1)  # the first capital apart


def test_a_column_may_be_sliced_chunked_or_empty() -> None:
    texts = [SENTENCES[code][0] for code in ("en", "de", "fr")]
    sliced = identify(pa.array(["x", *texts]).slice(1))
    chunked = identify(pa.chunked_array([texts[:1], texts[1:]]))
    assert sliced[0].tolist() == chunked[0].tolist() == ["en", "de", "fr"]
    assert sliced[1].tolist() == chunked[1].tolist()
    assert [len(part) for part in identify(pa.array([], pa.string()))] == [0, 0]
    assert [len(part) for part in identify(pa.chunked_array([], pa.string()))] == [0, 0]
