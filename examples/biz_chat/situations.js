// Three situations to try the coach with. `says`: what the `demo` model says, which needs no key and plays a part; a real
// model is given the rules and the question alone.

export const RULES =
  "You coach sales representatives while they talk to a customer. Look up the battle card first. Advise in short paragraphs " +
  "that can be read during a call: what to ask, what to say, what to leave alone. People on the call tell you meanwhile what " +
  "is said: take that up at once, and go on.";

export const SITUATIONS = {
  price: {
    question: "The customer says we are too expensive, and wants 30 % off before Friday. What do I say?",
    says: `Do not answer the number yet. Whoever answers a number with a number has begun to haggle, and 30 % becomes the place to start from.

Ask first: “What does the problem cost you in a month as it is?” Then be quiet until they have counted. Four hours a week and person is what others count, and it is better that they say it than that you do.

Then say it back in their own words, and put the price beside it, for a month, not for a year.

If they insist, give nothing without something in return: twenty seats instead of twelve, two years instead of one, or a name that you may quote. Write down what was given for what.

Leave Friday alone. It is their date, not yours; ask what happens on Friday.`,
  },
  competitor: {
    question: "They have an offer of a competitor that looks the same as ours. How do I show the difference?",
    says: `Do not speak of the competitor, speak of their work. Ask: “What did you like best about theirs?” You will hear what matters to them, and how much of it is a feeling.

Then take one thing that goes wrong every week: the network is away, somebody closes the lid of a laptop, two people write at once. Show that, with their data, in three minutes. Do not show a list.

If they ask for a comparison, give them the question instead that they can ask both: “What do I see after the connection was cut?”

Leave the price of the other one alone. You do not know what is in it.`,
  },
  silence: {
    question: "No answer for three weeks, after a very good meeting. Do I send another reminder?",
    says: `No third reminder. It tells them only that you have nothing new, and that waiting costs nothing.

Write three sentences. One with something that they did not know: a date, a number, a name. One that makes it easy to say no: “Shall I close this for now, and come back in spring?” And one with a time at which you will call, if they do not mind.

Then do call, at that time, and once.

Somebody else in that meeting had a reason to want this. Who was it? Write to that person as well, about their reason and not about the offer.`,
  },
};

// For questions that the demo has no part for.
export const FOLLOW_UP = `Say it in one sentence first, as you would to the customer. If it takes two, it is not clear yet.

Then ask what they would have to see to decide, and by when. Whatever they name is your next step, and the only one.

After the call write down in one line what they want, who else decides, and what you have promised. Send them that line.`;
