"""
Codes as features: scikit-learn
===============================

``unrelu.LatentInverter`` is a scikit-learn transformer: rows to codes, and codes back to rows. A hundred real digits
under heavy noise are classified from their codes, and a grid search chooses the weight of the prior by the score of the
classifier. This example needs ``pip install scikit-learn``.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import unrelu
from unrelu.adapters import LatentInverter

images, labels = unrelu.zoo.digits()
rng = np.random.default_rng([21, 1])
noisy = images.reshape(100, 784) + rng.normal(0, 0.5, (100, 784))

network = unrelu.zoo.load("mnist-relu")
inverter = LatentInverter(network, random_state=0, options={"rounds": 1})
pipeline = make_pipeline(inverter, LogisticRegression(max_iter=2000))
search = GridSearchCV(pipeline, {"latentinverter__prior": [0.0, 1.0]}, cv=3).fit(noisy, labels)
for prior, score in zip([0.0, 1.0], search.cv_results_["mean_test_score"], strict=True):
    print(f"prior {prior}: {score:.0%} right")

# %%
# ``inverse_transform`` gives the pictures of the codes.

fitted = search.best_estimator_[0]
shown = [0, 10, 20, 30, 40, 50]
figure, axes = plt.subplots(2, 6, figsize=(8, 3), layout="constrained")
cleaned = fitted.inverse_transform(fitted.transform(noisy[shown]))
for column, (before, after) in zip(axes.T, zip(noisy[shown], cleaned, strict=True), strict=True):
    for axis, picture in zip(column, (before, after), strict=True):
        axis.imshow(picture.reshape(28, 28), cmap="gray_r", vmin=0, vmax=1)
        axis.set(xticks=[], yticks=[])
axes[0, 0].set_ylabel("noisy")
axes[1, 0].set_ylabel("G(code)")
plt.show()
