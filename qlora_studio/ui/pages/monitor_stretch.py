"""Which steps the charts of the Monitor show, and where their crosshair stands: one for all of them."""

from __future__ import annotations

from PySide6.QtCore import QObject, QTimer, Signal

from qlora_studio.state.curves import Points, no_points

LEAST_STEPS = 10  # that can be zoomed to
REST_MS = 100  # without a move; then charts are drawn with smooth edges again
_BEYOND = 0.02  # of the whole, empty at both ends


class Stretch(QObject):
    """taken: there are other points. changed: draw anew. pointed: the crosshair stands elsewhere.

    rested: the person moves it no more, draw anew
    """

    taken = Signal(object)
    changed = Signal()
    pointed = Signal()
    rested = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.points: Points = no_points()
        self.first, self.last = 0.0, 1.0
        self.place = -1  # of the crosshair in `points`; -1: it isn't shown
        self._all = True
        self._off = False
        self._rest = QTimer(self, interval=REST_MS, singleShot=True)
        self._rest.timeout.connect(self.rested)

    @property
    def moving(self) -> bool:
        """The person has just moved it: what is drawn is soon drawn anew, and needn't be fine."""
        return self._rest.isActive()

    def rest(self) -> None:
        """Moves no more: all is drawn with smooth edges."""
        if self.moving:
            self._rest.stop()
            self.rested.emit()

    def take(self, points: Points) -> None:
        """More points, or another run's. While the newest step is in sight, it stays so."""
        at_the_end = self.first <= self.points.last_step <= self.last
        grown = points.last_step - self.points.last_step
        other = points.rewinds != self.points.rewinds or grown < 0
        self.points = points
        self.taken.emit(points)
        if self._all or other:
            self._all = True
            self.first, self.last = self._ends()
        elif at_the_end and points.last_step > self.last:
            self.first, self.last = self.first + grown, self.last + grown
        if other or self.place >= len(points):
            self.point_at(-1)
        self.changed.emit()

    def show_all(self) -> None:
        """From the start to where the run will end."""
        self._all = True
        self._show(*self._ends())

    def zoom(self, factor: float, step: float) -> None:
        """factor: below 1 shows less; `step` stays where it is."""
        self.show(step - (step - self.first) * factor, step + (self.last - step) * factor)

    def shift(self, steps: float) -> None:
        """The same number of steps further on."""
        low, high = self._ends()
        steps = min(max(steps, low - self.first), high - self.last)
        self._all = False
        self._show(self.first + steps, self.last + steps)

    def show(self, first: float, last: float) -> None:
        """These steps, as near as there are any."""
        low, high = self._ends()
        if last - first < LEAST_STEPS:
            middle = (first + last) / 2
            first, last = middle - LEAST_STEPS / 2, middle + LEAST_STEPS / 2
        first, last = max(first, low), min(last, high)
        if last - first >= high - low:
            self.show_all()
        else:
            self._all = False
            self._show(first, max(last, first + min(LEAST_STEPS, high - low)))

    # The crosshair ----------------------------------------------------------------------------------

    @property
    def crosshair_off(self) -> bool:
        """The person put it away."""
        return self._off

    def switch_crosshair(self) -> None:
        """Off, or on again."""
        self._off = not self._off
        self.point_at(-1)

    def point_near(self, step: float) -> None:
        """At the measured step nearest to the pointer."""
        self.point_at(-1 if self._off else self.points.at(step))

    def point_at(self, place: int) -> None:
        """A place in `points`; -1 takes the crosshair away."""
        if place != self.place:
            self.place = place
            self.pointed.emit()

    def move(self, steps: int) -> None:
        """By keys; from the newest step where it stands nowhere yet. The crosshair stays in sight."""
        size = len(self.points)
        if not size:
            return
        self._off = False
        start = self.place if self.place >= 0 else size - 1 - min(steps, 0) - max(steps, 0)
        self.point_at(min(max(start + steps, 0), size - 1))
        self._keep_in_sight()

    def move_to_end(self, last: bool) -> None:
        """To the first or the newest step."""
        self._off = False
        self.point_at(len(self.points) - 1 if last else min(0, len(self.points) - 1))
        self._keep_in_sight()

    def _keep_in_sight(self) -> None:
        step = float(self.points.steps[self.place])
        if step < self.first:
            self.shift(step - self.first)
        elif step > self.last:
            self.shift(step - self.last)

    def _ends(self) -> tuple[float, float]:
        end = self.points.last_shown
        return -_BEYOND * end, end * (1 + _BEYOND)

    def _show(self, first: float, last: float) -> None:
        if (first, last) != (self.first, self.last):
            self.first, self.last = first, last
            self._rest.start()
            self.changed.emit()
