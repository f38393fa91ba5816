// What the `demo` model says in a lesson: it needs no key, knows nothing, and plays a part. Other models answer themselves.

const ANSWERS = [
  `Because the captain knows the harbour as it was, and the pilot knows it as it is. Sandbanks move with every storm, buoys are laid anew, and the stream across the entrance turns with the tide. The pilot saw all of that this morning.

There is a second reason. In a narrow channel a long ship cannot stop and cannot turn: every mistake is made a mile before it is seen. So somebody who has made the turn five hundred times says when it begins.

Now a question for you: why does a pilot come on board outside, where the sea is rough, and not at the entrance?`,
  `Good, that is half of it: the ship has to be slow and steady for a man on a rope ladder, and outside there is room for that. The other half is time. Pilot and captain need ten minutes together before the channel begins: how deep does she lie, how fast does she stop, which way does her propeller push?

Then one who has never seen the ship and one who has never seen the harbour are, together, somebody who knows both.

What would you ask first, as the pilot?`,
  `That is a sound answer. I play a part, though: I am the demo model, and say the same to everybody. Begin a new lesson with openai/… or anthropic/… as the model, and I will think about yours.`,
];

// The parameters of a lesson's answer, by how many there were before.
export const demoParameters = (before) => ({ say: ANSWERS[Math.min(before, ANSWERS.length - 1)], rate: 20 });
