"""
Calibrate the confidence
========================

``confidence`` is the probability that no code fits better. It rests on how many independent restarts end in the best
optimum, and on how far such agreement can be trusted on this generator. ``unrelu.invert`` learns that by itself, from a
few simulated observations whose best codes are known. ``unrelu.calibrate`` learns it from more. Here the measurement
leaves much open, half of the outputs of a small random network with noise of a tenth of their spread, so that the
confidence matters.
"""

import matplotlib.pyplot as plt
import numpy as np

import unrelu

rng = np.random.default_rng([20, 1])
net = unrelu.from_arrays([rng.normal(size=(30, 10)), rng.normal(size=(60, 30))])
clean = net(rng.normal(size=(60, 10)))
half = np.arange(60) < 30
level = 0.1 * clean.std()
y = clean + rng.normal(0, level, clean.shape)

# %%
# The longer a search goes on, the more often it is right, and the more sure it is. With ``learn=False`` nothing is
# known of the generator, and no agreement makes sure. The best code that any of the searches found stands for the best
# one.

noise = unrelu.Gaussian(level)
efforts = (2, 4, 5, 6, 8)


def searched(**options):
    """Results of searches of so many rounds at most."""
    return [unrelu.invert(net, y, operator=half, noise=noise, rounds=rounds, **options) for rounds in efforts]


results = {"nothing learned": searched(learn=False), "learned by auto": searched()}
best = np.min([r.fun for r in results["learned by auto"]], axis=0)
right = [np.mean(r.fun <= 1.01 * best) for r in results["learned by auto"]]

# %%
# ``calibrate`` simulates 200 observations, and judges each tenth of them by what it learned from the others. It says
# how many of them are sure, and how many of these wrong.

calibration = unrelu.calibrate(net, half, noise=noise)
print(f"{calibration.reached:.0%} of {calibration.observations} observations reached a confidence of 0.99")
print(f"{calibration.wrong:.1%} of these wrongly")
results["calibrated"] = searched()

means = {name: [r.confidence.mean() for r in searches] for name, searches in results.items()}
for name, values in means.items():
    print(f"{name}: mean confidence {', '.join(f'{value:.2f}' for value in values)}")
print(f"right: {', '.join(f'{value:.2f}' for value in right)}")

figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
axis.plot(efforts, right, "ko-", label="share of right answers")
for name, values in means.items():
    axis.plot(efforts, values, "o--", label=f"mean confidence, {name}")
axis.set(xlabel="rounds", xticks=efforts, ylim=(0, 1.05))
axis.legend()
plt.show()
