// What a person decides on, so that all of it can be read: characters that are not seen, or that reorder what is seen
// (bidirectional controls, zero-width characters, tags), as \u202e. In JSON text that means the same.

const UNSEEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;

const escape = (found) =>
  Array.from({ length: found.length }, (_, place) => `\\u${found.charCodeAt(place).toString(16).padStart(4, "0")}`).join("");

// Line breaks and tabs are seen, and stay.
export const visible = (text) => text.replace(UNSEEN, (found) => ("\n\t".includes(found) ? found : escape(found)));

export const hasUnseen = (text) => visible(text) !== text;
