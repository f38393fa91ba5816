// The server's address as this browser knows it, into the first example.
const first = document.querySelector("#begin pre code");
first.textContent = first.textContent.replace(/^U=.*/, "U=" + location.origin + PREFIX);
// On a small screen the contents would push the page away.
if (matchMedia("(max-width: 52rem)").matches) document.querySelector("nav details").open = false;
function copy(text) {
  // The clipboard is there in secure contexts only; a selection can be copied in all.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  return Promise.resolve();
}
document.addEventListener("click", async event => {
  const button = event.target.closest("figure button");
  if (!button) return;
  try {
    await copy(button.closest("figure").querySelector("code").textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});
