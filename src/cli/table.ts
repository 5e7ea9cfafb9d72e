/** Tables that commands print. */

/** A column: its head, and the cell of each row. */
export type Column<T> = readonly [head: string, cell: (row: T) => string];

/** One line for the heads and one a row, columns aligned, without blanks at the ends. */
export function alignedTable<T>(columns: readonly Column<T>[], rows: readonly T[]): string[] {
  const lines = [
    columns.map(([head]) => head),
    ...rows.map((row) => columns.map(([, cell]) => cell(row))),
  ];
  const widths = columns.map((_, at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  return lines.map((line) =>
    line
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd(),
  );
}
