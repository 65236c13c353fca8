"""To and from other people's files: conversion of released checkpoints, model cards, publishing on the Hub."""
