/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the model test executes out of the trees: a program of some hundred KiB that exits with a
 * sum over pages of its own, so that a page that is not there shows.
 */
#include <stddef.h>
#include <stdint.h>

#define PAGES    64
#define PAGE_LEN 4096

static const volatile uint8_t pages[PAGES][PAGE_LEN] = {
    [0][0] = 1,   [3][17] = 5,   [9][4000] = 9,  [16][5] = 17, [24][99] = 25,
    [31][7] = 31, [40][11] = 41, [47][300] = 47, [55][1] = 50, [63][4095] = 15,
};

int main(void)
{
    unsigned sum = 0;

    for (size_t i = 0; i < PAGES; i++)
        for (size_t j = 0; j < PAGE_LEN; j++)
            sum += pages[i][j];
    return (int)(sum % 251u) + 1;
}
