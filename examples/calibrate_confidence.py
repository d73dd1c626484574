"""
Calibrate the confidence
========================

``confidence`` is the probability that no code fits better. It rests on how often independent searches end in the best
optimum, which was learned on other generators. ``unrelu.calibrate`` learns it on yours: it simulates observations whose
best code is known, and keeps what it learned with the network. Here the measurement leaves much open, half of the
outputs of a small random network with noise of a tenth of their spread, so that the confidence matters.
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
# The longer a search goes on, the more often it is right, and the more sure it is. The best code that any of the
# searches found stands for the best one.

noise = unrelu.Gaussian(level)
efforts = (1, 2, 4, 8)
default = [unrelu.invert(net, y, operator=half, noise=noise, rounds=rounds) for rounds in efforts]
best = np.min([r.fun for r in default], axis=0)
right = [np.mean(r.fun <= 1.01 * best) for r in default]

calibration = unrelu.calibrate(net, half, noise=noise, observations=60)
print(
    f"of simulated observations {calibration.reached:.0%} reached a confidence of 0.99, {calibration.wrong:.0%} wrongly"
)
calibrated = [unrelu.invert(net, y, operator=half, noise=noise, rounds=rounds) for rounds in efforts]

means = {"default": [r.confidence.mean() for r in default], "calibrated": [r.confidence.mean() for r in calibrated]}
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
