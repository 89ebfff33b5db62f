const form = document.getElementById("case"), said = document.getElementById("said");
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = new FormData();
  for (const input of form.querySelectorAll("input[type=file]")) if (input.files[0]) body.append(input.name, input.files[0]);
  said.textContent = "computing ...";
  try {
    const headers = { Authorization: "Bearer " + document.getElementById("token").value.trim() };
    const answer = await fetch("predict", { method: "POST", headers, body });
    if (!answer.ok) { said.textContent = JSON.stringify(await answer.json(), null, 1); return; }
    const names = ["Volumes-Ml", "Sequences", "Missing", "Trained-On", "Notice"];
    said.textContent = names.map((name) => name + ": " + (answer.headers.get("X-Wardround-" + name) || "none")).join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = "mask.nii.gz";
    link.click();
  } catch (error) { said.textContent = "no answer: " + error; }
});
