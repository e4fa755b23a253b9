# %% [markdown]
# # 2. Train a tiny GPT-2
#
# **What you will build.** A GPT-2 of your own, from nothing but text. It is GPT-2 in every part,
# only smaller: 0.9 million numbers where the smallest published one has 124 million. You will train
# it in about three minutes on an ordinary computer, look into its head before and after, save it,
# load it again, and have it write.
#
# **What you need to know.** Lesson 1: what a gradient is, softmax, and one step downhill.
#
# **Contents**, about 45 minutes
#
# 1. Text becomes tokens
# 2. Tokens become questions
# 3. The loss: how surprised is it?
# 4. The model, and how it looks back
# 5. AdamW: a better step
# 6. Training
# 7. What it learned to look at
# 8. Save it, reload it, talk to it
#
# Summary, two exercises, and the library's own source.

# %%
# Set-up. It finds the repository around this notebook. In a hosted notebook, which stands alone,
# write its address (what you would give to `git clone`) between the quotes first.
REPOSITORY = ""

import subprocess, sys
from pathlib import Path

fetched = Path.cwd() / "minigpt-repository"
places = (Path.cwd(), *Path.cwd().parents, fetched)
root = next((p for p in places if (p / "tutorials/tools").is_dir()), None)
if root is None:
    if not REPOSITORY:
        raise SystemExit("This notebook stands alone: write the repository's address in REPOSITORY")
    root = fetched
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, str(root)], check=True)
sys.path.insert(0, str(root))
try:
    import minigpt, matplotlib
except ImportError:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-e", str(root)], check=True)

# What this lesson uses.
import math, os
import numpy as np
from minigpt import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, TextStreamer
from minigpt.bpe_training import train_bpe
from minigpt.data import TokenData, load_text, split_text
from minigpt.presets import TrainConfig
from minigpt.training import Trainer
from tensor import Tensor, attention, cross_entropy, optim
from tutorials import check, show_solution, show_source
from tutorials.tools import pictures_02 as pictures

# A test of the lesson itself trains for a few steps only, into a folder of its own.
test = os.environ.get("MINIGPT_LESSON_TEST")
steps, out = (20, Path(test)) if test else (1200, root / "runs" / "lesson-02")

# %% [markdown]
# ## 1. Text becomes tokens
#
# Every Python carries half a megabyte of English: the text behind its `help()`. That is our
# library. The first nine tenths are for learning. The rest stays hidden from the model, so that we
# can ask it something it can't have learned by heart.

# %%
text = load_text()
train_text, validation_text = split_text(text)
print(f"{len(text):,} characters, {len(train_text):,} to learn from. It begins:\n")
print(text[:300])

# %% [markdown]
# A model computes with numbers, so text must become numbers. Single letters would do, but then
# every word takes many steps. Whole words would do, too, until there comes a word that nobody
# listed.
#
# GPT-2 goes between. It starts with single bytes, looks for the two neighbours that stand together
# most often, and makes them one new **token**. Then again, and again. Take the text "low low lower
# lowest". `l o` stands there four times and becomes `lo`. Then `lo w` becomes `low`. Then the space
# (written `Ġ`) and `low`, three times. The cell shows what these three merges do.
#
# Frequent words end up as one token, and rare ones as a few pieces. This is *byte pair encoding*.
# For our text we allow 1024 tokens: 256 bytes, an end mark, and 767 merges.

# %%
tiny = train_bpe(["low low lower lowest"], 256 + 1 + 3)     # bytes, an end mark, three merges
print(tiny.explain("lower lowest"))

tokenizer = train_bpe([train_text], 1024)
ids = tokenizer.encode("The object is returned by iteration.")
pictures.draw_tokens([tokenizer.decode([i]) for i in ids], ids)
print(f"{len(text) / len(tokenizer.encode(text)):.2f} characters for each token")

# %% [markdown]
# ## 2. Tokens become questions
#
# From now on the text is one long row of ids. Cut a window out of it, anywhere. At each position
# there is a question: *what comes next?* The answer stands in the text, one place further. Nobody
# needs to write answers down, which is why so much text can be learned from.
#
# Try it with the row 0, 1, 2 … 9 and windows of 4. One window of 4 is four questions, with one,
# two, three and four tokens to go by. We will use windows of 64, and 12 of them at a time, a
# **batch**: 768 questions in each step.

# %%
row = TokenData(np.arange(10), vocab_size=10)
inputs, targets = row.random_batch(batch_size=2, block_size=4, seed=0, step=0)
print("inputs: ", inputs.tolist())
print("targets:", targets.tolist())
pictures.draw_window(inputs[1], targets[1])

train_data = TokenData(tokenizer.encode(train_text), len(tokenizer), "training split")
validation_data = TokenData(tokenizer.encode(validation_text), len(tokenizer), "validation split")
inputs, targets = train_data.random_batch(batch_size=12, block_size=64, seed=0, step=0)
print("inputs", inputs.shape, " targets", targets.shape)        # (B, T) each
print("a window's beginning:", repr(tokenizer.decode(inputs[0, :12])))
print("shifted by one:      ", repr(tokenizer.decode(targets[0, :12])))

# %% [markdown]
# ## 3. The loss: how surprised is it?
#
# The model answers with 1024 scores, one for each token. Softmax makes shares of them. We look up
# the share *p* that the **right** token got, and take −ln p. If it was sure, and right, then p = 1
# and the loss is 0. If it gave p = 1/2, the loss is 0.69. The less it expected the answer, the
# larger its surprise. This is *cross-entropy*.
#
# Who knows nothing gives each of 1024 tokens the same share. The loss is then
# −ln(1/1024) = ln 1024 = **6.93**. That is where our model must begin.
#
# And the gradient? In lesson 1 the scores 0 and ln 3 had the shares 0.25 and 0.75. Let the first be
# right. Its share should rise to 1, so it lacks 0.75. The second's should fall to 0, so it has 0.75
# too much. That is the gradient: **share minus answer**, here 0.25 − 1 and 0.75 − 0. Lesson 1's
# rule says the same. The slope of −ln p is −1/p, so dy is −4 for the first share and 0 for the
# second; sum(dy · y) is −4 · 0.25 = −1; and y · (dy + 1) is 0.25 · (−3) = −0.75 and 0.75 · 1 =
# 0.75.

# %%
pictures.draw_surprise({"1": 1.0, "1/2": 1 / 2, "1/4": 1 / 4, "1/1024": 1 / 1024})
scores = Tensor([[0.0, math.log(3)]], requires_grad=True)
loss = cross_entropy(scores, [0])
loss.backward()
print(f"loss {loss.item():.4f}, by hand {math.log(4):.4f};  gradient {scores.grad.tolist()}")

# %% [markdown]
# ## 4. The model, and how it looks back
#
# Each token becomes a vector of 128 numbers, looked up in a table. A second table adds a vector for
# its place, 0 to 63. Then come four equal **blocks**. A block has two parts, and each adds
# something to the vectors:
#
# - **attention**, where a token gathers from the tokens before it;
# - an **MLP**, where each token works on its own: matmul, a bend, matmul, as in lesson 1.
#
# In front of each part the numbers of a vector are shifted and scaled to mean 0 and size 1, so that
# no block depends on how large they have grown. This is *layer norm*.
#
# At the end, the vector at each place is compared with every token's vector from the first table.
# That gives the 1024 scores for what comes next.
#
# Only attention is new. Each token asks a question, a vector *q*. Each token also has a label *k*,
# and something to tell, *v*. The score of a pair is q · k, softmax makes shares, and what a token
# gathers is the mean of the *v*'s in these shares. In small numbers: three tokens, which tell 0, 4
# and 8, and scores whose exp is
#
# | | of 0 | of 1 | of 2 |
# |--|--|--|--|
# | token 1 | 1 | 3 | – |
# | token 2 | 1 | 2 | 1 |
#
# Token 1 takes 1/4 of the 0 and 3/4 of the 4: that is 3. Token 2 takes 1/4, 1/2, 1/4: that is
# 0 + 2 + 2 = 4. And token 0 has only itself.
#
# The – is the **causal mask**. A token must not see what comes after it, or it could read off the
# answer. Its score counts as −infinity, and exp makes 0 of that.

# %%
q = np.log([[1.0, 5.0, 5.0], [1.0, 3.0, 5.0], [1.0, 2.0, 1.0]])     # a 5 is in the future: masked
k = np.eye(3)                                                       # then q @ k.T is q itself
# What a token tells is a vector as wide as q: here a number, 10 times it, and 100 times it.
v = np.array([[0.0, 0.0, 0.0], [4.0, 40.0, 400.0], [8.0, 80.0, 800.0]])
q, k, v = (Tensor(x[None, None]) for x in (q, k, v))                # (B, H, T, D), B = H = 1
gathered, weights = attention(q, k, v, scale=1.0, causal=True, want_weights=True)
print("gathered:", gathered.numpy()[0, 0].round(9).tolist())
pictures.draw_mask(weights.numpy()[0, 0])

# %% [markdown]
# Real attention does this several times side by side, each with its own q, k and v, a quarter of
# the vector wide: four **heads** of 32. Each can look for something else. (Scores are divided by
# √32, because a sum of 32 products would be too large to leave softmax a choice.)
#
# Now the class. All of the model is in `minigpt/model.py`, in the order in which you just read it.
# Count its numbers by hand: C = 128 wide, 4 blocks, V = 1024 tokens, T = 64 places.

# %%
V, T, C, L = len(tokenizer), 64, 128, 4
shape = GPT2Config(vocab_size=V, n_positions=T, n_embd=C, n_layer=L, n_head=4,
                   embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
model = GPT2LMHeadModel(shape)

attention_part = (C * 3 * C + 3 * C) + (C * C + C)      # to q, k and v; and what was gathered
mlp = (C * 4 * C + 4 * C) + (4 * C * C + C)             # four times as wide inside
norms = 2 * 2 * C                                       # in front of each part: a scale, a shift
print("by hand:", V * C + T * C + L * (attention_part + mlp + norms) + 2 * C)
print("model:  ", model.num_parameters())

# %% [markdown]
# What does it know before training? Its weights are random. So its loss should be ln 1024, and its
# text should be noise.

# %%
def talk(prompt, tokens=40, seed=0):
    """Go on from a text: draw each token from the 50 likeliest, likely ones a little preferred."""
    inputs = tokenizer(prompt, return_tensors="np")
    model.generate(**inputs, max_new_tokens=tokens, do_sample=True, top_k=50, temperature=0.8,
                   seed=seed, streamer=TextStreamer(tokenizer))

loss = cross_entropy(model(inputs).logits, targets)
print(f"loss {loss.item():.3f}, and ln {V} is {math.log(V):.3f}\n")
talk("The object is")

# %% [markdown]
# And where does it look? Below are the weights of all 16 heads for one sentence, drawn like the
# small table above, darker for more. Each head shares its attention out evenly: the first row has
# one field, the second two of one half, and so on, paler and paler. It has no reason to prefer
# anything.

# %%
sentence = "If the object is not a string, the object is returned."

def look(sentence):
    """The attention weights of each layer for a sentence: a list of (H, T, T)."""
    output = model([tokenizer.encode(sentence)], output_attentions=True)
    return [weights.numpy()[0] for weights in output.attentions]

pictures.draw_heads(look(sentence), "before training")

# %% [markdown]
# ## 5. AdamW: a better step
#
# Plain descent moves each number by lr times its slope. That is unfair. In a model some slopes are
# thousands of times larger than others. A rate that suits the steep numbers leaves the flat ones
# where they are.
#
# **AdamW** keeps two running averages for each number: *m* of its slopes, *v* of their squares. It
# moves by lr · m / √v. Say the first slopes of two numbers are 4 and −0.01. Plain descent at lr =
# 0.1 moves them by 0.4 and 0.001. In AdamW the first step is 0.1 · 4/4 and 0.1 · 0.01/0.01: both
# move by 0.1. Where slopes keep their sign, steps stay that large. Where the sign flips back and
# forth, m is small, and so is the step.
#
# The W stands for *weight decay*: each step also shrinks every weight a little, so that only what
# is useful stays large.
#
# A long, narrow valley shows it: steep across, gentle along.

# %%
def height(a, b):
    return 0.05 * a * a + 10 * b * b

def path(optimizer_of, steps=40):
    a, b = Tensor(3.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    optimizer, points = optimizer_of([a, b]), []
    for _ in range(steps + 1):
        points.append([a.item(), b.item()])
        height(a, b).backward()
        optimizer.step()
        optimizer.zero_grad()
    return np.array(points)

pictures.draw_paths(height, {
    "plain descent": path(lambda numbers: optim.SGD(numbers, lr=0.09)),
    "AdamW": path(lambda numbers: optim.AdamW(numbers, lr=0.2)),
})

# %% [markdown]
# Plain descent jumps from wall to wall, and after 40 steps it has hardly come ahead. With a larger
# rate it would fly out, as in lesson 1. AdamW goes at the same pace in both directions. Its average
# *m* remembers the way it came, like a rolling ball: it runs past the lowest point and turns back.
#
# ## 6. Training
#
# Everything is there. Three steps of training, in the open:

# %%
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
for step in range(3):
    inputs, targets = train_data.random_batch(12, 64, seed=0, step=step)
    loss = cross_entropy(model(inputs).logits, targets)         # forward
    loss.backward()                                             # backward
    norm = optim.clip_grad_norm(model.parameters(), 1.0)        # no step from a wild gradient
    optimizer.step()                                            # downhill
    optimizer.zero_grad()
    print(f"step {step}: loss {loss.item():.3f}, length of the gradient {norm:.2f}")

# %% [markdown]
# The library's `Trainer` does the same, and more around it: a learning rate that rises at first and
# then falls, the loss on hidden text, and, if you let it `run()` on its own, checkpoints and a log.
#
# To have something to compare with, we take two rivals that only count. The first knows how often
# each token occurs in the training text. The second knows how often each token follows each other
# token. What would be their losses on the hidden text?
#
# Start it, and watch. It takes two to four minutes.

# %%
config = TrainConfig(max_steps=steps, batch_size=12, block_size=T, lr=3e-3,
                     warmup_steps=steps // 12)
trainer = Trainer(config, model, tokenizer, train_data, validation_data, out, report=None)

def surprise(counts, *where):
    """The loss on hidden text of one who goes by counts: shares along the last axis."""
    return -np.log(counts / counts.sum(-1, keepdims=True))[where].mean()

seen, hidden = train_data.ids, validation_data.ids
pairs = np.full((V, V), 0.03)           # a little for pairs that never occurred
np.add.at(pairs, (seen[:-1], seen[1:]), 1)
curve = pictures.LossCurve(steps, rivals={
    "knows nothing": math.log(V),
    "counts tokens": surprise(np.bincount(seen, minlength=V) + 1, hidden),
    "counts pairs": surprise(pairs, hidden[:-1], hidden[1:]),
})

while trainer.step < steps:
    stats = trainer.train_step()
    curve.train.append((trainer.step, stats.loss))
    if trainer.step % (steps // 10) == 0:
        curve.validation.append((trainer.step, trainer.evaluate()))
    if trainer.step % (steps // 50 or 1) == 0:
        curve.draw()

print(f"before: {math.log(V):.2f} nats per token; after: {trainer.validation_loss:.2f}")

# %% [markdown]
# How to read it:
#
# - **The steep start.** In some tens of steps the model is as good as the rival who counts tokens.
#   It knows which are frequent. That is easy, and worth much.
# - **The slow slope.** After a third of the run it passes the rival who counts pairs. What it wins
#   from there comes from further back than the last token. That is attention at work.
# - **The gap.** Training loss falls below validation loss. The model has seen its training text
#   several times by now and begins to know it by heart. On hidden text that does not help. With
#   more text the gap would close.
#
# A loss is a surprise. exp turns it back into a number of choices: how many equally likely tokens
# would leave one as unsure? It began with 1024. See what it is now, and what it writes.

# %%
print(f"as unsure as among {math.exp(trainer.validation_loss):.0f} tokens\n")
talk("The object is")
print("-" * 40)
talk("If the class", seed=1)

# %% [markdown]
# Words! Most are real, and the grammar of Python's manual shines through. The meaning does not. A
# model of this size, after three minutes, writes like someone who overheard a language.
#
# ## 7. What it learned to look at
#
# The same sentence, the same 16 heads:

# %%
pictures.draw_heads(look(sentence), "after training")

# %% [markdown]
# They have come to prefer something. A dark *column* is a word that all later words look at. A dark
# line along the *diagonal* is a head that looks at its own word, or a fixed way back. Nobody told
# them to: the loss fell when they did.
#
# One sentence may be chance, so measure it on hidden text. For each head: how much does a token
# give to the one that it looks at most? Evenly shared over 64 places that would be little.

# %%
windows, _ = validation_data.random_batch(batch_size=12, block_size=T, seed=1, step=0)

def sharpness(model):
    """The largest weight in a row, a mean over rows: for each layer and head (L, H)."""
    attentions = model(windows, output_attentions=True).attentions          # (B, H, T, T) each
    return np.array([weights.numpy().max(-1).mean((0, 2)) for weights in attentions])

sharp = sharpness(model)
print("a model before training:", sharpness(GPT2LMHeadModel(shape)).round(2), sep="\n")
print("ours, a row for each layer:", sharp.round(2), sep="\n")
layer, head = np.unravel_index(sharp.argmax(), sharp.shape)

sentence = "If the object is not a string, the object is returned."     # or another one
tokens = [tokenizer.decode([i]) for i in tokenizer.encode(sentence)]
pictures.draw_head(look(sentence)[layer][head], tokens, f"the sharpest: layer {layer}, head {head}")

# %% [markdown]
# Read it row by row: this word looks at that one. In the run that this was written with, the
# sharpest head had found the articles. Nearly every word looked at a "the" or "a" before it, as if
# it asked: is a noun due? Yours may be after something else. Change `sentence` in the cell and test
# your guess.
#
# ## 8. Save it, reload it, talk to it
#
# A model is its numbers, its shape, and its tokenizer. All three go into one folder, in the same
# files in which GPT-2 itself is published, so other programs can read it.

# %%
model.save_pretrained(out)
tokenizer.save_pretrained(out)
for file in sorted(out.iterdir()):
    if file.is_file():
        print(f"{file.stat().st_size:>10,} bytes  {file.name}")

ids = tokenizer.encode(sentence)
saved_scores = model([ids]).logits.numpy()
model = GPT2LMHeadModel.from_pretrained(out)
tokenizer = GPT2Tokenizer.from_pretrained(out)
print("\nthe same scores as before:", (model([ids]).logits.numpy() == saved_scores).all())

# %% [markdown]
# This one is yours. Change the text, the `seed`, or the number of tokens (the model sees 64 at
# most), and run the cell again.

# %%
talk("Python is", tokens=50, seed=3)

# %% [markdown]
# Outside of this notebook, too, from the folder of the repository:
#
# ```sh
# python -m minigpt generate --model runs/lesson-02 "Python is"
# ```
#
# And this lesson in one line, for a text of your own:
#
# ```sh
# python -m minigpt train --data my-text.txt --out runs/mine
# ```
#
# ## Summary
#
# - Text becomes **tokens**: frequent neighbours were merged, again and again.
# - Every position of a **window** is a question, *what comes next?*, and the text knows the answer.
# - The **loss** is the surprise −ln p. It begins at ln V. Its gradient is share minus answer.
# - **Attention** gathers from earlier tokens in shares; the **causal mask** hides later ones.
# - **AdamW** gives every number a step of its own size.
# - Training is one loop: batch, forward, backward, step.
#
# The published GPT-2 differs in size, in the text, and in patience. Not in kind.
#
# ## Exercises
#
# They need nothing but the set-up cell. Solutions: `show_solution("02.1")`.
#
# **02.1** One step of AdamW. All of `p` (the numbers), `g` (their slopes), `m` and `v` are NumPy
# arrays of one shape. `step` is 1 in the first step. Return the new `p`, `m` and `v`.
#
# - Decay first: p shrinks by the factor 1 − lr · weight_decay.
# - m ← beta1 · m + (1 − beta1) · g, and v ← beta2 · v + (1 − beta2) · g². Averages that forget
#   slowly.
# - Both begin at 0, so early on they are too small: after one step m is only (1 − beta1) · g. For
#   the step, and only for it, divide m by 1 − beta1^step, and v by 1 − beta2^step.
# - Then p moves by −lr · m / (√v + eps), with the corrected m and v. `eps` keeps us from dividing
#   by 0.

# %%
def my_adamw(p, g, m, v, step, lr, beta1, beta2, eps, weight_decay):
    m = ...
    v = ...
    p = ...
    return p, m, v

check("02.1", my_adamw)

# %% [markdown]
# **02.2** The causal mask. `scores` is a Tensor (B, H, T, T): how much token t (the rows) cares for
# token s (the last axis). Return the weights, a Tensor of the same shape: each row sums to 1, and
# nothing looks ahead. Use the Tensor's own methods, so that a gradient can come back:
# `scores.masked_fill(mask, value)`, where `mask` is a NumPy array of booleans, and `.softmax()`.

# %%
def my_causal_weights(scores):
    weights = ...
    return weights

check("02.2", my_causal_weights)

# %% [markdown]
# ## The library's own source
#
# Attention as it is defined (training runs a faster version, with the same results); the part of
# the model around it, and a block; AdamW's step, in place and in pieces that fit the processor's
# cache; and the step of the `Trainer` that you watched.

# %%
from minigpt.model import GPT2Attention, GPT2Block
from tensor import functional, numpy_fused

show_source(functional._attention_step_by_step, GPT2Attention.forward, GPT2Block.forward,
            numpy_fused._adamw_step, Trainer.train_step)
