# %% [markdown]
# # 1. From a number to a gradient
#
# **What you will build.** The machine that trains every neural network: automatic differentiation.
# You begin with a taxi fare that you can work out in your head. You end with four derivatives that
# you wrote yourself, checked to the last digit, and a small network that learned something.
#
# **What you need to know.** Python functions, NumPy arrays, and that the slope of a curve says how
# fast it rises. Nothing about neural networks.
#
# **Contents**, about 45 minutes
#
# 1. One number: which way should it go?
# 2. The same in small steps
# 3. The library does it for you
# 4. Downhill
# 5. Many numbers at once
# 6. Matmul
# 7. Softmax
# 8. All of it together: a network
#
# Summary, four exercises, and the library's own source.

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
import numpy as np
from tensor import Tensor, cross_entropy, gradcheck, optim
from tutorials import check, show_solution, show_source
from tutorials.tools import pictures_01 as pictures

# %% [markdown]
# ## 1. One number: which way should it go?
#
# You guess that a taxi costs `w = 2` for each kilometre and `b = 1` for getting in. Your ride was
# `x = 3` kilometres, so you expect 2 · 3 + 1 = 7. The driver asks for `y = 10`.
#
# Your guess is off by 7 − 10 = −3. To have one number that is small when the guess is good, we
# square that: (−3)² = 9. This number is called the **loss**. Zero would be perfect.
#
# Should `w` be larger or smaller? And how much does it matter? Nudge it and see.

# %%
def loss_of(w, b=1.0, x=3.0, y=10.0):
    return (w * x + b - y) ** 2

nudge = 0.001
print("loss at w = 2:    ", loss_of(2.0))
print("loss at w = 2.001:", loss_of(2.0 + nudge))
print("change, for each unit of w:", (loss_of(2.0 + nudge) - loss_of(2.0)) / nudge)

# %% [markdown]
# The loss fell by 0.018 when `w` grew by 0.001. That is 18 times as much. With smaller nudges the
# number settles at −18. It is the **slope** of the loss at `w = 2`: minus says that the loss falls
# as `w` grows, and 18 says how fast.

# %%
pictures.draw_slope(loss_of, w=2.0, slope=-18.0)

# %% [markdown]
# So nudging works. It is called *finite differences*, and we will use it as a referee: it knows
# nothing of how the loss is made, so it can't share our mistakes.
#
# But it is slow. Each number needs a run of its own. GPT-2 has 124 million numbers, so one look
# around would take 124 million runs. We want all slopes from **one** run.
#
# ## 2. The same in small steps
#
# Cut the computation into steps so small that each one's slope is obvious:
#
# | step | value | nudge its input by h, and the result moves by |
# |--|--|--|
# | `p = w * x` | 6 | 3 h (for `w`, because `x` is 3) |
# | `s = p + b` | 7 | h (for `p`, and the same for `b`) |
# | `e = s - y` | −3 | h |
# | `L = e * e` | 9 | −6 h, see below |
#
# In the last step `e` is used **twice**. Nudge only the left `e` by h: the product moves by h times
# the right one, −3 h. Nudge only the right `e`: −3 h again. Both move when `e` moves, so the two
# add up: −6 h. (And h · h, which is nothing beside h when h is tiny.) Remember this. *What is used
# twice gets two slopes, and they add up.*
#
# Now walk back from the loss. Write `dw` for "how much the loss moves for each unit of `w`". Then
# `de` is −6. When `p` moves by h, `e` does, too, so `dp` is −6 as well. And when `w` moves by h,
# `p` moves by 3 h, so the loss moves by 3 · (−6) h. So `dw` is −18. That is the number from above,
# and nobody nudged anything.

# %%
w, b, x, y = 2.0, 1.0, 3.0, 10.0

# forward: the values
p = w * x           # 6
s = p + b           # 7
e = s - y           # -3
L = e * e           # 9

# backward: the slopes, from last to first
dL = 1.0            # the loss moves as the loss does
de = dL * e + dL * e    # e was used twice
ds = de * 1
dp, db = ds * 1, ds * 1
dw = dp * x

print(f"L = {L:g}, de = {de:g}, ds = {ds:g}, dp = {dp:g}, db = {db:g}, dw = {dw:g}")

# %% [markdown]
# One walk back gave both `dw` and `db`. With 124 million numbers it would still be one walk.
#
# Each step did the same thing: take the slope that **arrives from behind**, multiply it by the
# step's **own** slope, hand it on. Multiplying slopes like this is the *chain rule*. All slopes
# together are the **gradient**. The walk is the *backward pass*.
#
# ## 3. The library does it for you
#
# A `Tensor` is a number (or an array) that remembers how it was made. Compute as usual. Then
# `L.backward()` walks back, and leaves the slopes in `.grad`.

# %%
x, y = 3.0, 10.0
w, b = Tensor(2.0, requires_grad=True), Tensor(1.0, requires_grad=True)
p = (w * x).retain_grad()       # only w and b keep their slopes, unless we ask for more
s = (p + b).retain_grad()
e = (s - y).retain_grad()
L = (e * e).retain_grad()

L.backward(retain_graph=True)   # retain_graph: we want to draw the graph afterwards
print("dw =", w.grad.item(), "  db =", b.grad.item())
pictures.draw_graph({"w": w, "b": b, "p": p, "s": s, "e": e, "L": L})

# %% [markdown]
# This is the *graph*. Values were computed from left to right, slopes from right to left. `e` has
# two arrows to `L`, because it was used twice. `x` and `y` are not drawn: they are constants,
# nobody asked for their slopes, so the library did not remember them.
#
# Where does it remember? In `L.creator`: an object for this one use of multiply. It has two
# methods. `forward` computes the value and keeps what it will need. `backward` takes the slope from
# behind, `dy`, and returns one slope for each input. This is the library's own multiply, whole:

# %%
sources = [type(source).__name__ for source, _ in L.creator.edges]
print("L was made by", type(L.creator).__name__, "from results of", sources)
show_source(type(L.creator))

# %% [markdown]
# `self.backend.mul` is NumPy's `*` on this machine; on a GPU it is another. With our numbers: a = b
# = −3 and dy = 1, so `da` = −3 and `db` = −3. Both belong to `e`, so the walk adds them: −6.
# (`needs_grad` saves work: no slope is computed for an input that nobody asked about.)
#
# ## 4. Downhill
#
# The slopes are dw = −18 and db = −6. Both are negative, so larger `w` and `b` lower the loss. Go a
# small way **against** the slope. How small? Say 0.01 of it, the **learning rate**:
#
# > w = 2 + 0.01 · 18 = 2.18, b = 1 + 0.01 · 6 = 1.06
#
# The new guess is 2.18 · 3 + 1.06 = 7.6. The error was −3 and is −2.4. The loss was 9 and is 5.76.
# And again from there. That is all that training is.
#
# Before you run the next cell, guess: what happens with a rate of 0.05? And of 0.11?

# %%
def descend(lr, steps=8, x=3.0, y=10.0):
    w, b = Tensor(2.0, requires_grad=True), Tensor(1.0, requires_grad=True)
    optimizer = optim.SGD([w, b], lr=lr)
    losses = []
    for _ in range(steps):
        loss = (w * x + b - y) ** 2
        losses.append(loss.item())
        loss.backward()
        optimizer.step()            # w -= lr * w.grad, and the same for b
        optimizer.zero_grad()       # the next slopes start from nothing
    return losses

pictures.draw_descents({lr: descend(lr) for lr in (0.01, 0.05, 0.1, 0.11)})

# %% [markdown]
# Each step multiplies the error by 1 − 20 · lr (the 20 is 2 · (x² + 1)). With 0.01 that is 0.8, and
# the error melts. With 0.05 it is 0: solved in one step. With 0.1 it is −1: from too cheap to
# too dear and back, for ever. With 0.11 it is −1.2: worse every time. When a training run
# explodes, suspect the learning rate first.
#
# `zero_grad()` matters. Slopes **add up** in `.grad`, because what is used twice gets the sum, and
# the library can't know whether a second `backward` means a second use. Forget `zero_grad` and
# you walk along the sum of all slopes so far.
#
# ## 5. Many numbers at once
#
# Nothing new happens with arrays of the same shape. Each place is a small graph of its own.
#
# One thing needs a name. In the middle of a graph the result `y` is an array, not yet the loss.
# What arrives from behind is then an array, too: `dy`, with one slope for each number of `y`. To
# try a step on its own, we make up a `dy` and hand it to `backward`.

# %%
a = Tensor([1.0, 2.0, 3.0], requires_grad=True)
b = Tensor([4.0, 5.0, 6.0], requires_grad=True)
y = a * b                               # 4, 10, 18
y.backward([1.0, 10.0, 100.0])          # this is dy
print("da = dy * b =", a.grad.tolist())
print("db = dy * a =", b.grad.tolist())

# %% [markdown]
# ### Shapes that differ
#
# Add a row of 3 to a table of 2 × 3. NumPy repeats the row for each line of the table. This is
# *broadcasting*. So each number of `b` is used **twice**, and you know what happens then: its
# slopes add up.

# %%
a = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
b = np.array([7.0, 8.0, 9.0])
dy = np.array([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])

row = Tensor(b, requires_grad=True)
(Tensor(a) + row).backward(dy)
print("db =", row.grad.tolist())
pictures.draw_broadcast(a, b, dy)

# %% [markdown]
# That is the whole rule: **a gradient has the shape of its value; sum over the axes that
# broadcasting repeated.** They are the axes that the small array lacks (counted from the right) and
# those where its size is 1. A column of shape (2, 1) would be summed over axis 1, and would keep
# its shape (2, 1). In the library one function of ten lines does this for every operation:
# `sum_to_shape`, shown at the end.
#
# ## 6. Matmul
#
# In `y = a @ b` a number of `y` is a row of `a` times a column of `b`: below, 19 = 1 · 5 + 2 · 7.
# Where does `a[0, 1]`, the 2, go?

# %%
a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[5.0, 6.0], [7.0, 8.0]])
pictures.draw_matmul(a, b, i=0, k=1)

# %% [markdown]
# Into both numbers of row 0: 2 · 7 is in the 19, and 2 · 8 is in the 22. It is used twice, so:
#
# > da[0, 1] = dy[0, 0] · 7 + dy[0, 1] · 8
#
# Row 0 of `dy`, times row 1 of `b`, added up. A *row* times a *row*: matmul takes rows times
# columns, so `b` must be turned on its side. **da = dy @ b.T**, and by the same thought
# **db = a.T @ dy**.
#
# If you ever forget: the shapes tell you. For a (M, K), b (K, N) and dy (M, N), only dy @ b.T has
# the shape of `a`.

# %%
dy = np.array([[1.0, 10.0], [100.0, 1000.0]])
left = Tensor(a, requires_grad=True)
(left @ Tensor(b)).backward(dy)
print("by hand, da[0, 1] =", 1 * 7 + 10 * 8)
print("dy @ b.T =", (dy @ b.T).tolist())
print("library  =", left.grad.tolist())

# %% [markdown]
# ## 7. Softmax
#
# A network that must choose gives each choice a score. Softmax turns scores into shares that sum
# to 1: take exp of each, divide by the sum. With the scores 0 and ln 3 the exps are 1 and 3, their
# sum is 4, so the shares are 0.25 and 0.75.
#
# Here every output depends on **every** input. Raise the second score a little, by 0.4:

# %%
scores = np.array([0.0, np.log(3)])
before = Tensor(scores).softmax().numpy()
after = Tensor(scores + [0.0, 0.4]).softmax().numpy()
pictures.draw_softmax(before, after, changed="second score + 0.4")

# %% [markdown]
# The second share rises, and the first must fall by as much: the sum stays 1.
#
# How fast? Raise score *j* by a tiny h. Its exp grows by the factor 1 + h. So the sum grows by the
# factor 1 + h · y[j], because exp *j* is the share y[j] of it. Therefore
#
# - every share shrinks at the speed y[i] · y[j]: here y[0] falls at 0.25 · 0.75 = 0.1875;
# - share *j* itself gains y[j] on top: here y[1] rises at 0.75 − 0.75 · 0.75 = 0.1875.
#
# Now weigh these by `dy` and add them up, for score *j* reaches the loss through every share:
#
# > dx[j] = y[j] · dy[j] − y[j] · (sum over i of dy[i] · y[i])
#
# or, shorter, **dx = y · (dy − sum(dy · y))**. In words: a score's slope is its share, times how
# far that choice's `dy` lies above the average `dy`.

# %%
x = Tensor(scores, requires_grad=True)
y = x.softmax()
y.backward([1.0, 0.0])              # the loss is the first share itself
print("by hand: sum(dy * y) =", 0.25, " dx =", [0.25 * (1 - 0.25), 0.75 * (0 - 0.25)])
print("library:", x.grad.numpy())

# %% [markdown]
# ## 8. All of it together: a network
#
# Points in a square. Those inside a disc are triangles, the others circles. No straight line parts
# them. A small network will: matmul and a broadcast add; `tanh`, which bends; matmul and a
# broadcast add again; then softmax. `cross_entropy` is softmax and the loss in one: minus the log
# of the share that the right answer got. (Lesson 2 starts from there.)
#
# Nobody writes a backward pass here. You have just worked out nearly all of it: only `tanh` and the
# log are missing.

# %%
rng = np.random.default_rng(0)
points = rng.uniform(-1, 1, (200, 2)).astype("float32")         # (N, 2)
labels = ((points**2).sum(1) < 0.4).astype(int)                 # (N,), 1 inside the disc

def random(*shape, scale):
    return Tensor(rng.normal(0, scale, shape), "float32", requires_grad=True)

weights = [random(2, 16, scale=1), random(16, scale=0),         # w1, b1
           random(16, 2, scale=0.1), random(2, scale=0)]        # w2, b2
untrained = [Tensor(w.numpy()) for w in weights]                # to compare with, later

def network(x, w1, b1, w2, b2):
    return (x @ w1 + b1).tanh() @ w2 + b2                       # (N, 2) -> (N, 16) -> (N, 2)

optimizer = optim.SGD(weights, lr=1.0)
for step in range(301):
    loss = cross_entropy(network(Tensor(points), *weights), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 100 == 0:
        print(f"step {step:3}   loss {loss.item():.3f}")

def belief(weights):
    """The share of "triangle" at some points, as a function of the points."""
    return lambda at: network(Tensor(at, "float32"), *weights).softmax().numpy()[:, 1]

pictures.draw_regions(points, labels, {"before": belief(untrained), "after": belief(weights)})

# %% [markdown]
# And the referee? `gradcheck` nudges all weights together along a few random directions, and
# compares what the loss does with what the gradient says. It wants float64, because float32 can't
# tell a small mistake from rounding. The result is the largest error that it saw.

# %%
exact = [Tensor(w.numpy().astype("float64"), requires_grad=True) for w in weights]
inputs = Tensor(points.astype("float64"))
print("largest error:", gradcheck(lambda *ws: cross_entropy(network(inputs, *ws), labels), *exact))

# %% [markdown]
# ## Summary
#
# - A **gradient** holds one slope for each number: how much the loss moves when that number does.
# - **Forward** computes values in small steps. **Backward** walks the steps in reverse: what
#   arrives from behind, times the step's own slope. One walk gives all slopes.
# - What is **used twice** gets two slopes, and they add up. That explains `e * e`, broadcasting,
#   and why `.grad` must be emptied.
# - A gradient has the **shape** of its value.
# - **Finite differences** are slow and know nothing, which makes them a good referee.
#
# | step | backward |
# |--|--|
# | y = a + b | da = dy, db = dy, each summed to its shape |
# | y = a · b | da = dy · b, db = dy · a |
# | y = a @ b | da = dy @ b.T, db = a.T @ dy |
# | y = softmax(x) | dx = y · (dy − sum(dy · y)) |
#
# ## Exercises
#
# Replace each `...` and run the cell. `check` calls your function on several shapes, small ones
# first, and compares with the library and with finite differences. If something is wrong, it says
# what, and then shows the numbers. Everything is a NumPy array here, no Tensor.
#
# When you are stuck, or done: `show_solution("01.1")` in a new cell. If you come back another day,
# the set-up cell is all that the exercises need.
#
# **01.1** Multiply, for `a` and `b` of the same shape. `dy` has the shape of `y`. Return the value
# and both gradients.

# %%
def my_multiply(a, b, dy):
    y = ...
    da = ...
    db = ...
    return y, da, db

check("01.1", my_multiply)

# %% [markdown]
# **01.2** An addition that broadcasts. `a` and `b` may have any two shapes that fit together: (2,
# 3) and (3,), or (2, 1) and (1, 3), where both are repeated. You will want a small function that
# sums `dy` to a given shape.

# %%
def my_add(a, b, dy):
    y = ...
    da = ...
    db = ...
    return y, da, db

check("01.2", my_add)

# %% [markdown]
# **01.3** Matmul of two matrices.

# %%
def my_matmul(a, b, dy):
    y = ...
    da = ...
    db = ...
    return y, da, db

check("01.3", my_matmul)

# %% [markdown]
# **01.4** Softmax over the last axis, whatever comes before it: `x` may be (2,), (2, 3) or (2, 3,
# 4). One of the inputs has a score of 1000. What is exp(1000)? And what happens to the shares when
# you take the same amount off every score?

# %%
def my_softmax(x, dy):
    y = ...
    dx = ...
    return y, dx

check("01.4", my_softmax)

# %% [markdown]
# ## The library's own source
#
# What you built is in these few lines: matmul's and softmax's derivative, the sum that undoes
# broadcasting, and the walk back. They are what `backward()` runs when it trains GPT-2.

# %%
from tensor.graph import walk
from tensor.numpy_fused import softmax_backward
from tensor.ops.function import sum_to_shape
from tensor.ops.fused import Softmax
from tensor.ops.matmul import MatMul

show_source(MatMul, Softmax, softmax_backward, sum_to_shape, walk)
