"use strict";

// The data, and computations on cells. Nothing here knows the page.

const data = JSON.parse(document.getElementById("data").textContent);

/** The pieces of a cell's text, without the one that ended it. */
function piecesOf(cell) {
  const shown = cell.pieces.length - (cell.ended ? 1 : 0);
  return cell.pieces.slice(0, shown).map((piece, at) => ({
    text: data.pieces[piece],
    relevancy: cell.relevancy[at],
    logprob: cell.logprobs[at],
  }));
}

/** The text with its relevancy, as pieces, or whole if the pieces do not add up to it. */
function partsOf(cell) {
  return cell.text === undefined ? piecesOf(cell) : [{ text: cell.text }];
}

function textOf(cell) {
  return partsOf(cell).map((part) => part.text).join("").trim();
}

function mean(numbers) {
  const known = numbers.filter((number) => number !== undefined && number !== null);
  return known.length ? known.reduce((sum, number) => sum + number, 0) / known.length : null;
}

/** Whole words, each with the largest relevancy of its pieces. Spaces end a word, even within a piece. */
function wordsOf(cell) {
  const words = [];
  let within = false;
  for (const part of partsOf(cell)) {
    const relevancy = part.relevancy ?? null;
    for (const text of part.text.split(/(\s+)/)) {
      if (!text.trim()) {
        within &&= !text;
      } else if (within) {
        const last = words[words.length - 1];
        last.text += text;
        last.relevancy = Math.max(last.relevancy, relevancy);
      } else {
        words.push({ text, relevancy });
        within = true;
      }
    }
  }
  return words;
}

/** The words that owe most to the embedding: at most three, each at least half as much as the first. */
function topWords(cell) {
  const words = wordsOf(cell).filter((word) => /[\p{L}\p{N}]/u.test(word.text));
  const [most, , third] = words.map((word) => word.relevancy).sort((a, b) => b - a);
  return words.filter((word) => word.relevancy >= Math.max(most / 2, third ?? 0)).slice(0, 3);
}

/** A pattern that finds a word in any case, or null. */
function patternOf(find) {
  const text = find.trim();
  return text ? new RegExp(text.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&"), "giu") : null;
}

/** The [from, to) ranges where a pattern matches the text of some parts. */
function matches(parts, pattern) {
  const text = parts.map((part) => part.text).join("");
  return pattern ? [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length]) : [];
}

/** The largest relevancy of the matching pieces (1 if unknown), or null if the word is not mentioned. */
function mentioned(cell, pattern) {
  const parts = partsOf(cell);
  const found = matches(parts, pattern);
  if (!found.length) return null;
  let at = 0;
  let most = null;
  for (const part of parts) {
    const end = at + part.text.length;
    if (found.some(([from, to]) => from < end && at < to)) most = Math.max(most, part.relevancy ?? 1);
    at = end;
  }
  return most;
}

/** Whether two runs say different things. A run may lack the cell. */
function differs(pair) {
  return pair.length === 2 && (pair[0] && textOf(pair[0])) !== (pair[1] && textOf(pair[1]));
}

/** Which words of each text are missing in the other: two lists of booleans, from the longest common subsequence. */
function changedWords(before, after) {
  const [a, b] = [before, after].map((cell) => wordsOf(cell).map((word) => word.text));
  const common = Array.from({ length: a.length + 1 }, () => new Array(b.length + 1).fill(0));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i][j] = a[i] === b[j] ? common[i + 1][j + 1] + 1 : Math.max(common[i + 1][j], common[i][j + 1]);
    }
  }
  const changed = [a.map(() => true), b.map(() => true)];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) changed[0][i++] = changed[1][j++] = false;
    else if (common[i + 1][j] >= common[i][j + 1]) i++;
    else j++;
  }
  return changed;
}

/** How much two texts differ, from 0 to 1. */
function difference(pair) {
  if (!differs(pair)) return 0;
  if (!pair[0] || !pair[1]) return 1;
  const words = changedWords(...pair).flat();
  return mean(words.map(Number)) ?? 1;
}

/** Measures to colour cells by: a name, a number for a cell or a pair, and how to show it. */
const MEASURES = {
  words: { name: "words, by relevancy", of: null },
  relevancy: { name: "mean relevancy", of: (cell) => mean(cell.relevancy), from: 0 },
  logprob: { name: "mean log-probability", of: (cell) => mean(cell.logprobs), to: 0, unit: "nats per token" },
  find: { name: "the word in Find", of: null, from: 0, to: 1 },
};
data.controls.forEach((control, at) => {
  MEASURES["evidence-" + control] = {
    name: "evidence against " + control,
    of: (cell) => cell.controls?.[at]?.evidence ?? null,
    diverging: true,
    unit: "nats per token",
  };
});
if (data.runs.length === 2) MEASURES.difference = { name: "difference", ofPair: difference, from: 0, to: 1 };

/** The range of a measure over the whole page, so that tabs can be compared. */
function scaleOf(measure) {
  let [from, to] = [measure.from ?? Infinity, measure.to ?? -Infinity];
  if (measure.of) {
    for (const grid of data.grids) {
      for (const pair of grid.cells.flat()) {
        for (const cell of pair) {
          const value = cell && measure.of(cell);
          if (value === null) continue;
          from = Math.min(from, value);
          to = Math.max(to, value);
        }
      }
    }
  }
  if (measure.diverging) {
    to = Math.max(Math.abs(from), Math.abs(to));
    from = -to;
  }
  return { from, to };
}
